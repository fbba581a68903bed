{{/*
Names. What is made of them (pods, volumes' claims) keeps the journals: a release that changes them finds none of its old ones.
*/}}
{{- define "chat-bridge.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* At most 52 characters: a StatefulSet's pods carry a label of its name and a hash, which together stay below 63. */}}
{{- define "chat-bridge.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- $name := include "chat-bridge.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "chat-bridge.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride }}
{{- end }}

{{- define "chat-bridge.headlessName" -}}
{{- printf "%s-headless" (include "chat-bridge.fullname" .) }}
{{- end }}

{{- define "chat-bridge.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "chat-bridge.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* What never changes in the life of a release: selectors are made of it. */}}
{{- define "chat-bridge.releaseLabels" -}}
app.kubernetes.io/name: {{ include "chat-bridge.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The bridges alone: the pods of tests and of the drain Job bear another component, so no Service, budget or spread counts them. */}}
{{- define "chat-bridge.selectorLabels" -}}
{{ include "chat-bridge.releaseLabels" . }}
app.kubernetes.io/component: bridge
{{- end }}

{{/* Labels of objects. Arguments: root, component, and labels of the object's own. */}}
{{- define "chat-bridge.labels" -}}
{{- $root := .root -}}
{{- $labels := dict }}
{{- $labels = merge $labels (fromYaml (include "chat-bridge.releaseLabels" $root)) }}
{{- $_ := set $labels "app.kubernetes.io/component" (default "bridge" .component) }}
{{- $_ := set $labels "app.kubernetes.io/part-of" "chat-bridge" }}
{{- $_ := set $labels "app.kubernetes.io/version" ($root.Chart.AppVersion | toString) }}
{{- $_ := set $labels "app.kubernetes.io/managed-by" $root.Release.Service }}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") }}
{{- toYaml (merge $labels (default dict .labels) (default dict $root.Values.commonLabels)) }}
{{- end }}

{{/* `metadata` of an object. Arguments: root, name, component, labels, annotations, namespace. */}}
{{- define "chat-bridge.metadata" -}}
{{- $root := .root -}}
name: {{ .name }}
namespace: {{ default (include "chat-bridge.namespace" $root) .namespace }}
labels:
  {{- include "chat-bridge.labels" . | nindent 2 }}
{{- $annotations := merge (dict) (default dict .annotations) (default dict $root.Values.commonAnnotations) }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* A digest wins over a tag, as it does in a reference that has both. */}}
{{- define "chat-bridge.image" -}}
{{- $image := .Values.image -}}
{{- $registry := default $image.registry .Values.global.imageRegistry -}}
{{- $reference := $image.repository -}}
{{- if $registry }}{{ $reference = printf "%s/%s" (trimSuffix "/" $registry) $reference }}{{ end -}}
{{- $tag := default (.Chart.AppVersion | toString) $image.tag -}}
{{- if $image.digest -}}
{{- if $image.tag }}{{ $reference = printf "%s:%s" $reference $image.tag }}{{ end -}}
{{- printf "%s@%s" $reference $image.digest }}
{{- else if hasPrefix "sha256:" $tag -}}
{{- printf "%s@%s" $reference $tag }}
{{- else -}}
{{- printf "%s:%s" $reference $tag }}
{{- end }}
{{- end }}

{{/* The port of an address such as "0.0.0.0:8080" or "[::]:8080". */}}
{{- define "chat-bridge.port" -}}
{{- regexFind "[0-9]+$" . }}
{{- end }}

{{- define "chat-bridge.httpPort" -}}
{{- include "chat-bridge.port" (include "chat-bridge.setting" (dict "root" . "section" "http" "key" "listen" "default" "0.0.0.0:8080")) }}
{{- end }}

{{- define "chat-bridge.adminPort" -}}
{{- include "chat-bridge.port" (include "chat-bridge.setting" (dict "root" . "section" "admin" "key" "listen" "default" "0.0.0.0:9090")) }}
{{- end }}

{{/* A setting of `config`, or the bridge's default. Arguments: root, section, key, default. */}}
{{- define "chat-bridge.setting" -}}
{{- $section := default dict (index .root.Values.config .section) -}}
{{- $value := index $section .key -}}
{{- if kindIs "invalid" $value }}{{ $value = .default }}{{ end -}}
{{- include "chat-bridge.plain" $value }}
{{- end }}

{{/* A number without an exponent, whatever Helm made of it; anything else as it is. */}}
{{- define "chat-bridge.plain" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ printf "%.0f" . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{/* Bytes of a size of the bridge ("8GiB", "9MB", 4096) or a quantity of Kubernetes ("10Gi", "1.5G"); empty where it is neither. */}}
{{- define "chat-bridge.bytes" -}}
{{- $text := include "chat-bridge.plain" . -}}
{{- $number := regexFind "^([0-9]+[.]?[0-9]*|[.][0-9]+)" $text -}}
{{- $unit := trimPrefix $number $text | trim | lower | trimSuffix "b" -}}
{{- $units := dict "" 1 "k" 1000 "m" 1000000 "g" 1000000000 "t" 1000000000000 "p" 1000000000000000 "e" 1000000000000000000
    "ki" 1024 "mi" 1048576 "gi" 1073741824 "ti" 1099511627776 "pi" 1125899906842624 "ei" 1152921504606846976 -}}
{{- if and $number (hasKey $units $unit) }}{{ mulf (float64 $number) (index $units $unit) | floor | printf "%.0f" }}{{ end }}
{{- end }}

{{/* Milliseconds of a duration such as "1h 30m" or "250ms"; empty where it is none. */}}
{{- define "chat-bridge.milliseconds" -}}
{{- $text := include "chat-bridge.plain" . -}}
{{- $units := dict
    "ms" 1.0 "msec" 1.0 "millis" 1.0
    "s" 1000.0 "sec" 1000.0 "secs" 1000.0 "second" 1000.0 "seconds" 1000.0
    "m" 60000.0 "min" 60000.0 "mins" 60000.0 "minute" 60000.0 "minutes" 60000.0
    "h" 3600000.0 "hr" 3600000.0 "hrs" 3600000.0 "hour" 3600000.0 "hours" 3600000.0 -}}
{{- if regexMatch "^([0-9]+ *[a-z]+ *)+$" $text -}}
{{- $sum := 0.0 -}}
{{- $known := true -}}
{{- range regexFindAll "[0-9]+ *[a-z]+" $text -1 -}}
{{- $unit := regexFind "[a-z]+" . -}}
{{- if hasKey $units $unit }}{{ $sum = addf $sum (mulf (float64 (regexFind "[0-9]+" .)) (index $units $unit)) }}{{ else }}{{ $known = false }}{{ end -}}
{{- end -}}
{{- if $known }}{{ printf "%.0f" $sum }}{{ end -}}
{{- end }}
{{- end }}

{{/* Whether callbacks are received over TLS: "true" or empty. */}}
{{- define "chat-bridge.tls" -}}
{{- if or .Values.tls.existingSecret .Values.certificate.enabled }}true{{ end }}
{{- end }}

{{- define "chat-bridge.tlsSecretName" -}}
{{- if .Values.certificate.enabled }}
{{- default (printf "%s-tls" (include "chat-bridge.fullname" .)) .Values.certificate.secretName }}
{{- else }}
{{- .Values.tls.existingSecret }}
{{- end }}
{{- end }}

{{/*
How many instances run, as far as the cluster tells: what the StatefulSet asks for, or where it was deleted without its pods, the highest of their numbers and those below. 0 where none runs, and
where there is no cluster to ask.
*/}}
{{- define "chat-bridge.liveReplicas" -}}
{{- $namespace := include "chat-bridge.namespace" . -}}
{{- $prefix := printf "%s-" (include "chat-bridge.fullname" .) -}}
{{- $live := lookup "apps/v1" "StatefulSet" $namespace (include "chat-bridge.fullname" .) -}}
{{- $count := 0 -}}
{{- if $live -}}
{{- $count = dig "spec" "replicas" 1 $live | int -}}
{{- else -}}
{{- range default list (lookup "v1" "Pod" $namespace "").items -}}
{{- $number := trimPrefix $prefix .metadata.name -}}
{{- if and (hasPrefix $prefix .metadata.name) (regexMatch "^[0-9]+$" $number) -}}
{{- $count = max $count (sub (add1 (int $number)) (int $.Values.ordinalsStart)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $count -}}
{{- end }}

{{/* The highest number that an instance of this release can have. */}}
{{- define "chat-bridge.lastInstance" -}}
{{- $count := .Values.replicas -}}
{{- if .Values.hpa.enabled }}{{ $count = .Values.hpa.maxReplicas }}{{ end -}}
{{- sub (add (int .Values.ordinalsStart) (int $count)) 1 }}
{{- end }}

{{/* Whether there is an API, or nobody wants to know. Arguments: root, api (such as "monitoring.coreos.com/v1"), value (that asks for it). */}}
{{- define "chat-bridge.needApi" -}}
{{- if and .root.Values.checkApis (not (.root.Capabilities.APIVersions.Has .api)) }}
{{- fail (printf "%s needs the API %s, which this cluster does not have (install what brings it, or set checkApis=false where the chart is rendered without a cluster)" .value .api) }}
{{- end }}
{{- end }}
