{{/*
The topics that the configuration names, as JSON: name -> partitions, replicas, config. What `chat-bridge topics apply` would make of the same configuration.
*/}}
{{- define "chat-bridge.topics" -}}
{{- $config := include "chat-bridge.config" . | fromJson -}}
{{- $topics := default dict $config.topics -}}
{{- $own := default dict $topics.config -}}
{{- $prefix := dig "prefix" "chat." $topics -}}
{{- $partitions := dig "partitions" 6 $topics -}}
{{- $replicas := dig "replication_factor" 3 $topics -}}
{{- $maxMessage := include "chat-bridge.bytes" (dig "max_message" "9MiB" $topics) -}}
{{- $deadLetter := default (printf "%sdead-letter" $prefix) $topics.dead_letter -}}
{{- $unrecognized := default (printf "%sunrecognized" $prefix) $topics.unrecognized -}}
{{- $discard := default list $topics.discard -}}
{{- $renamed := default dict $topics.names -}}
{{- $names := list $deadLetter $unrecognized -}}
{{- range $command, $kind := .Values.strimzi.kinds -}}
{{- if not (or (has $command $discard) (hasKey $renamed $command)) }}{{ $names = append $names (printf "%s%s" $prefix $kind) }}{{ end -}}
{{- end -}}
{{- range $command, $name := $renamed -}}
{{- if not (has $command $discard) }}{{ $names = append $names $name }}{{ end -}}
{{- end -}}
{{- $all := dict -}}
{{- range $name := $names | uniq -}}
{{- $settings := dict "max.message.bytes" $maxMessage -}}
{{- $count := $partitions -}}
{{- range $key, $value := default dict (index $own $name) -}}
{{- if eq $key "partitions" }}{{ $count = $value }}{{ else }}{{ $_ := set $settings $key (include "chat-bridge.plain" $value) }}{{ end -}}
{{- end -}}
{{- if eq $name $deadLetter }}{{ $_ := set $settings "cleanup.policy" "delete" }}{{ end -}}
{{- $_ := set $all $name (dict "partitions" $count "replicas" $replicas "config" $settings) -}}
{{- end -}}
{{- if eq (dig "kafka" "delivery" "" $config) "exactly-once" -}}
{{- $name := include "chat-bridge.positionsTopic" . -}}
{{- $settings := dict "cleanup.policy" "compact" "segment.bytes" "16777216" "min.cleanable.dirty.ratio" "0.1" -}}
{{- range $key, $value := default dict (index $own $name) -}}
{{- if ne $key "partitions" }}{{ $_ := set $settings $key (include "chat-bridge.plain" $value) }}{{ end -}}
{{- end -}}
{{- $_ := set $all $name (dict "partitions" (include "chat-bridge.positionsPartitions" . | int) "replicas" $replicas "config" $settings) -}}
{{- end -}}
{{- toJson $all }}
{{- end }}

{{- define "chat-bridge.positionsTopic" -}}
{{- include "chat-bridge.setting" (dict "root" . "section" "kafka" "key" "positions_topic" "default" "chat-bridge.positions") }}
{{- end }}

{{/* One for each instance that there may be; 32 where the configuration says nothing else. */}}
{{- define "chat-bridge.positionsPartitions" -}}
{{- $own := dig "topics" "config" (include "chat-bridge.positionsTopic" .) dict (include "chat-bridge.config" . | fromJson) -}}
{{- include "chat-bridge.plain" (default 32 $own.partitions) }}
{{- end }}

{{/* A name for an object: a topic's may have letters and signs that Kubernetes does not take. */}}
{{- define "chat-bridge.objectName" -}}
{{- $name := lower . | replace "_" "-" -}}
{{- if ne $name . }}{{ $name = printf "%s-%s" ($name | trunc 240) (. | sha256sum | trunc 8) }}{{ end -}}
{{- $name | trunc 253 | trimAll "-." }}
{{- end }}
