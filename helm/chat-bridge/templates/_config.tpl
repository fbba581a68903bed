{{/* Where the configuration and the secrets' files are mounted, and the journal. */}}
{{- define "chat-bridge.configDir" -}}
/etc/chat-bridge
{{- end }}

{{- define "chat-bridge.journalDir" -}}
/var/lib/chat-bridge
{{- end }}

{{/* Takes what is null out of a map and out of those in it: null is how a user takes a default away, or leaves a section empty. */}}
{{- define "chat-bridge.withoutNull" -}}
{{- $map := . -}}
{{- range $key, $value := $map -}}
{{- if kindIs "invalid" $value }}{{ $_ := unset $map $key }}{{ else if kindIs "map" $value }}{{ include "chat-bridge.withoutNull" $value }}{{ end -}}
{{- end -}}
{{- end }}

{{/*
The configuration as JSON: `config`, and what the chart adds to it: the journal's folder, and the paths of the files that it mounts. Everything goes through
JSON once, so that numbers are alike whether they come from a file or from --set.
*/}}
{{- define "chat-bridge.config" -}}
{{- $dir := include "chat-bridge.configDir" . -}}
{{- $config := .Values.config | toJson | fromJson -}}
{{- include "chat-bridge.withoutNull" $config -}}
{{- range $section := list "http" "admin" "journal" "kafka" -}}
{{- if not (kindIs "map" (index $config $section)) }}{{ $_ := set $config $section dict }}{{ end -}}
{{- end -}}
{{- $_ := set $config.journal "dir" (include "chat-bridge.journalDir" .) -}}
{{- $tokens := default dict .Values.secrets.tokens -}}
{{- range $app := default list $config.apps -}}
{{- $id := include "chat-bridge.plain" $app.sdk_app_id -}}
{{- if hasKey $tokens $id }}{{ $_ := set $app "tokens_file" (printf "%s/tokens/%s" $dir $id) }}{{ end -}}
{{- end -}}
{{- if .Values.secrets.adminToken.existingSecret }}{{ $_ := set $config.admin "token_file" (printf "%s/admin/token" $dir) }}{{ end -}}
{{- $properties := default dict $config.kafka.properties -}}
{{- $files := default dict $config.kafka.secret_files -}}
{{- range $property, $source := .Values.secrets.kafka -}}
{{- $path := printf "%s/kafka/%s" $dir $property -}}
{{- if hasSuffix ".location" $property }}{{ $_ := set $properties $property $path }}{{ else }}{{ $_ := set $files $property $path }}{{ end -}}
{{- end -}}
{{- if $properties }}{{ $_ := set $config.kafka "properties" $properties }}{{ end -}}
{{- if $files }}{{ $_ := set $config.kafka "secret_files" $files }}{{ end -}}
{{- if include "chat-bridge.tls" . -}}
{{- $tls := dict "certificate" (printf "%s/tls/tls.crt" $dir) "private_key" (printf "%s/tls/tls.key" $dir) -}}
{{- $ca := .Values.tls.clientCa -}}
{{- if or $ca.existingSecret $ca.existingConfigMap }}{{ $_ := set $tls "client_ca" (printf "%s/tls/client-ca.crt" $dir) }}{{ end -}}
{{- $_ := set $config.http "tls" $tls -}}
{{- end -}}
{{- toJson $config }}
{{- end }}

{{- define "chat-bridge.config.toml" -}}
{{- include "chat-bridge.toml.table" (dict "path" "" "table" (include "chat-bridge.config" . | fromJson)) | trim }}
{{- end }}

{{/* One source of the projected volume: a key of a Secret or a ConfigMap under a path. Arguments: source, path. */}}
{{- define "chat-bridge.file" -}}
{{- if .source.existingSecret -}}
- secret:
    name: {{ .source.existingSecret }}
    items:
      - key: {{ .source.key }}
        path: {{ .path }}
{{- else -}}
- configMap:
    name: {{ .source.existingConfigMap }}
    items:
      - key: {{ .source.key }}
        path: {{ .path }}
{{- end }}
{{- end }}

{{/* The volume of the configuration and of all secrets' files: one, without subPath, so that what rotates reaches the bridge without a restart. */}}
{{- define "chat-bridge.configVolume" -}}
name: config
projected:
  # 0440: the files belong to fsGroup.
  defaultMode: 288
  sources:
    - configMap:
        name: {{ include "chat-bridge.fullname" . }}
        items:
          - key: config.toml
            path: config.toml
    {{- range $id, $source := .Values.secrets.tokens }}
    {{- include "chat-bridge.file" (dict "source" $source "path" (printf "tokens/%s" $id)) | nindent 4 }}
    {{- end }}
    {{- with .Values.secrets.adminToken }}
    {{- if .existingSecret }}
    {{- include "chat-bridge.file" (dict "source" . "path" "admin/token") | nindent 4 }}
    {{- end }}
    {{- end }}
    {{- range $property, $source := .Values.secrets.kafka }}
    {{- include "chat-bridge.file" (dict "source" $source "path" (printf "kafka/%s" $property)) | nindent 4 }}
    {{- end }}
    {{- if include "chat-bridge.tls" . }}
    - secret:
        name: {{ include "chat-bridge.tlsSecretName" . }}
        items:
          - key: {{ ternary "tls.crt" .Values.tls.certificateKey .Values.certificate.enabled }}
            path: tls/tls.crt
          - key: {{ ternary "tls.key" .Values.tls.privateKeyKey .Values.certificate.enabled }}
            path: tls/tls.key
    {{- with .Values.tls.clientCa }}
    {{- if or .existingSecret .existingConfigMap }}
    {{- include "chat-bridge.file" (dict "source" . "path" "tls/client-ca.crt") | nindent 4 }}
    {{- end }}
    {{- end }}
    {{- end }}
{{- end }}

{{/*
What the Secrets hold, as far as the cluster tells: `lookup` finds nothing where the chart is rendered without one. Only with secrets.rollOnChange, for the
bridge takes up new secrets by itself.
*/}}
{{- define "chat-bridge.secretsChecksum" -}}
{{- $root := . -}}
{{- $names := list -}}
{{- range $source := concat (default dict .Values.secrets.tokens | values) (default dict .Values.secrets.kafka | values) (list .Values.secrets.adminToken .Values.tls.clientCa) -}}
{{- if $source.existingSecret }}{{ $names = append $names $source.existingSecret }}{{ end -}}
{{- end -}}
{{- if include "chat-bridge.tls" . }}{{ $names = append $names (include "chat-bridge.tlsSecretName" .) }}{{ end -}}
{{- $found := dict -}}
{{- range $name := $names | uniq -}}
{{- $secret := lookup "v1" "Secret" (include "chat-bridge.namespace" $root) $name -}}
{{- $_ := set $found $name (dig "data" dict $secret) -}}
{{- end -}}
{{- toJson $found | sha256sum }}
{{- end }}
