{{/*
TOML of a map. Helm's own toToml writes every number as a float, so that an app id becomes 1.4e+09; here a whole number has all its digits.
Values come in as JSON does: maps, lists, texts, booleans, float64; null is left out, for that is how a user takes a default away.
*/}}
{{- define "chat-bridge.toml.string" -}}
{{- toRawJson . | replace "\x7f" "\\u007F" }}
{{- end }}

{{- define "chat-bridge.toml.key" -}}
{{- if regexMatch "^[A-Za-z0-9_-]+$" . }}{{ . }}{{ else }}{{ include "chat-bridge.toml.string" . }}{{ end }}
{{- end }}

{{- define "chat-bridge.toml.inline" -}}
{{- if kindIs "map" . -}}
{{- $pairs := list -}}
{{- range $key, $value := . -}}
{{- if not (kindIs "invalid" $value) }}{{ $pairs = append $pairs (printf "%s = %s" (include "chat-bridge.toml.key" $key) (include "chat-bridge.toml.inline" $value)) }}{{ end -}}
{{- end -}}
{ {{ join ", " $pairs }} }
{{- else if kindIs "slice" . -}}
{{- $items := list -}}
{{- range $value := . -}}
{{- if not (kindIs "invalid" $value) }}{{ $items = append $items (include "chat-bridge.toml.inline" $value) }}{{ end -}}
{{- end -}}
[{{ join ", " $items }}]
{{- else if kindIs "string" . -}}
{{- include "chat-bridge.toml.string" . }}
{{- else -}}
{{- include "chat-bridge.plain" . }}
{{- end }}
{{- end }}

{{/* Whether a value is a list of maps, which TOML writes as tables of its own: "true" or empty. */}}
{{- define "chat-bridge.toml.isTables" -}}
{{- if and (kindIs "slice" .) . }}{{ if kindIs "map" (first .) }}true{{ end }}{{ end }}
{{- end }}

{{/* The lines of a table, then of the tables in it. Arguments: path (with its dot, or empty), table. */}}
{{- define "chat-bridge.toml.table" -}}
{{- $path := .path -}}
{{- range $key, $value := .table }}
{{- if not (or (kindIs "invalid" $value) (kindIs "map" $value) (include "chat-bridge.toml.isTables" $value)) }}
{{ include "chat-bridge.toml.key" $key }} = {{ include "chat-bridge.toml.inline" $value }}
{{- end }}
{{- end }}
{{- range $key, $value := .table }}
{{- $name := printf "%s%s" $path (include "chat-bridge.toml.key" $key) }}
{{- if kindIs "map" $value }}

[{{ $name }}]
{{- include "chat-bridge.toml.table" (dict "path" (printf "%s." $name) "table" $value) }}
{{- else if include "chat-bridge.toml.isTables" $value }}
{{- range $value }}

[[{{ $name }}]]
{{- include "chat-bridge.toml.table" (dict "path" (printf "%s." $name) "table" .) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
