{{/*
The environment of a container: what the chart sets, then extraEnv, merged by name: a name that stands twice is an error of server-side apply.
Arguments: root, instance (a fixed number; else the pod's ordinal), bind (whether the addresses are bound).
*/}}
{{- define "chat-bridge.env" -}}
{{- $root := .root -}}
{{- $env := list (dict "name" "CHAT_BRIDGE_CONFIG" "value" (printf "%s/config.toml" (include "chat-bridge.configDir" $root))) -}}
{{- if hasKey . "instance" -}}
{{- $env = append $env (dict "name" "CHAT_BRIDGE_KAFKA__INSTANCE" "value" (toString .instance)) -}}
{{- else -}}
{{- $ordinal := dict "fieldRef" (dict "apiVersion" "v1" "fieldPath" "metadata.labels['apps.kubernetes.io/pod-index']") -}}
{{- $env = append $env (dict "name" "CHAT_BRIDGE_KAFKA__INSTANCE" "valueFrom" $ordinal) -}}
{{- end -}}
{{- if and .bind $root.Values.bindToPodIP -}}
{{- $address := ternary "[$(POD_IP)]" "$(POD_IP)" (eq $root.Values.podIPFamily "IPv6") -}}
{{- $env = append $env (dict "name" "POD_IP" "valueFrom" (dict "fieldRef" (dict "apiVersion" "v1" "fieldPath" "status.podIP"))) -}}
{{- $env = append $env (dict "name" "CHAT_BRIDGE_HTTP__LISTEN" "value" (printf "%s:%s" $address (include "chat-bridge.httpPort" $root))) -}}
{{- $env = append $env (dict "name" "CHAT_BRIDGE_ADMIN__LISTEN" "value" (printf "%s:%s" $address (include "chat-bridge.adminPort" $root))) -}}
{{- end -}}
{{- range $extra := $root.Values.extraEnv -}}
{{- $merged := list -}}
{{- $replaced := false -}}
{{- range $one := $env -}}
{{- if eq $one.name $extra.name }}{{ $merged = append $merged $extra }}{{ $replaced = true }}{{ else }}{{ $merged = append $merged $one }}{{ end -}}
{{- end -}}
{{- $env = ternary $merged (append $env $extra) $replaced -}}
{{- end -}}
{{- toYaml $env }}
{{- end }}

{{/* A container of the chart's image: image, environment, security. Arguments: as of `env`. */}}
{{- define "chat-bridge.container" -}}
{{- $root := .root -}}
image: {{ include "chat-bridge.image" $root | quote }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
env:
  {{- include "chat-bridge.env" . | nindent 2 }}
{{- with $root.Values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml $root.Values.securityContext | nindent 2 }}
{{- end }}

{{/* What the pods of the bridge, of the tests and of the drain Job have in common. */}}
{{- define "chat-bridge.podSpec" -}}
{{- $root := . -}}
serviceAccountName: {{ include "chat-bridge.serviceAccountName" $root }}
automountServiceAccountToken: false
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml $root.Values.podSecurityContext | nindent 2 }}
{{- if not (kindIs "invalid" $root.Values.hostUsers) }}
hostUsers: {{ $root.Values.hostUsers }}
{{- end }}
{{- with $root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $root.Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with $root.Values.schedulerName }}
schedulerName: {{ . }}
{{- end }}
{{- with $root.Values.dnsPolicy }}
dnsPolicy: {{ . }}
{{- end }}
{{- with $root.Values.dnsConfig }}
dnsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.hostAliases }}
hostAliases:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* What a test mounts: all but the journal, which belongs to its instance. */}}
{{- define "chat-bridge.testMounts" -}}
volumeMounts:
  - name: config
    mountPath: {{ include "chat-bridge.configDir" . }}
    readOnly: true
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.helmTest.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
