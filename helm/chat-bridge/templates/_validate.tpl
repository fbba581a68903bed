{{/*
Refuses what would lose callbacks, or could never work. All problems at once, each with its value; what is only unwise is said in NOTES.txt. What the
configuration alone can get wrong is for `chat-bridge check`; here is what lies between the configuration, the pod and the volume.
*/}}
{{- define "chat-bridge.validate" -}}
{{- $problems := list -}}
{{- range $part := list "config" "secrets" "journal" "stop" "scale" "edge" "monitoring" -}}
{{- range $problem := splitList "\n" (include (printf "chat-bridge.validate.%s" $part) $) -}}
{{- if trim $problem }}{{ $problems = append $problems (trim $problem) }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if $problems }}{{ fail (printf "\n\nchat-bridge cannot be installed like this:\n  - %s\n" (join "\n  - " $problems)) }}{{ end -}}
{{- end }}

{{- define "chat-bridge.validate.config" -}}
{{- $config := .Values.config -}}
{{- if not $config.apps }}
config.apps: at least one app is required, or every callback is refused
{{- end }}
{{- if not (dig "kafka" "bootstrap_servers" "" $config) }}
config.kafka.bootstrap_servers: is required
{{- end }}
{{- range $section := list "http" "admin" }}
{{- $default := ternary "0.0.0.0:8080" "0.0.0.0:9090" (eq $section "http") }}
{{- $listen := include "chat-bridge.setting" (dict "root" $ "section" $section "key" "listen" "default" $default) }}
{{- $port := include "chat-bridge.port" $listen }}
{{- if or (not $port) (eq (int $port) 0) }}
config.{{ $section }}.listen: {{ $listen }} has no port that a Service could lead to
{{- else if or (hasPrefix "127." $listen) (hasPrefix "[::1]" $listen) }}
config.{{ $section }}.listen: {{ $listen }} cannot be reached from outside the pod
{{- end }}
{{- end }}
{{- if eq (include "chat-bridge.httpPort" .) (include "chat-bridge.adminPort" .) }}
config.admin.listen: the port is that of config.http.listen
{{- end }}
{{- if dig "kafka" "instance" "" $config }}
config.kafka.instance: all pods would have the same one; each takes its ordinal
{{- end }}
{{- if and (dig "journal" "dir" "" $config) (ne (dig "journal" "dir" "" $config) (include "chat-bridge.journalDir" .)) }}
config.journal.dir: the volume is mounted at {{ include "chat-bridge.journalDir" . }}, and the journal belongs on it
{{- end }}
{{- range $env := .Values.extraEnv }}
{{- if regexMatch "^CHAT_BRIDGE_(CONFIG$|APPS$|JOURNAL__|SHUTDOWN__|ADMIN__|HTTP__(LISTEN|BODY_TIMEOUT|TRUSTED_PROXIES|TLS)|KAFKA__(INSTANCE|DELIVERY|POSITIONS_TOPIC|PROPERTIES|SECRET_FILES)|TOPICS__CONFIG)" $env.name }}
extraEnv: {{ $env.name }} belongs into config, where it can be checked
{{- end }}
{{- end }}
{{- end }}

{{- define "chat-bridge.validate.secrets" -}}
{{- $config := .Values.config -}}
{{- $tokens := default dict .Values.secrets.tokens }}
{{- $ids := list }}
{{- range $app := default list $config.apps }}
{{- $id := include "chat-bridge.plain" $app.sdk_app_id }}
{{- $ids = append $ids $id }}
{{- if and $app.tokens_file (hasKey $tokens $id) }}
secrets.tokens.{{ $id }}: config.apps has a tokens_file for this app already
{{- else if not (or $app.tokens_file (hasKey $tokens $id) $.Values.secrets.allowUnsigned) }}
secrets.tokens: app {{ $id }} has no tokens, so anybody could send its callbacks (set secrets.allowUnsigned=true if that is meant)
{{- end }}
{{- end }}
{{- range $id, $_ := $tokens }}
{{- if not (has $id $ids) }}
secrets.tokens.{{ $id }}: config.apps has no such app
{{- end }}
{{- end }}
{{- range $property, $source := .Values.secrets.kafka }}
{{- if and $source.existingSecret $source.existingConfigMap }}
secrets.kafka.{{ $property }}: existingSecret and existingConfigMap exclude each other
{{- else if not (or $source.existingSecret $source.existingConfigMap) }}
secrets.kafka.{{ $property }}: existingSecret is required
{{- else if and $source.existingConfigMap (not (hasSuffix ".location" $property)) }}
secrets.kafka.{{ $property }}: a secret does not belong into a ConfigMap
{{- end }}
{{- if or (hasKey (default dict (dig "kafka" "properties" dict $config)) $property) (hasKey (default dict (dig "kafka" "secret_files" dict $config)) $property) }}
secrets.kafka.{{ $property }}: config.kafka has it already
{{- end }}
{{- end }}
{{- range $property, $_ := default dict (dig "kafka" "properties" dict $config) }}
{{- if regexMatch "password|secret|[.]pem$|jaas" $property }}
config.kafka.properties.{{ $property }}: a secret does not belong into a ConfigMap; see secrets.kafka
{{- end }}
{{- end }}
{{- if and .Values.secrets.adminToken.existingSecret (dig "admin" "token_file" "" $config) }}
secrets.adminToken: config.admin.token_file is set already
{{- end }}
{{- if and .Values.tls.existingSecret .Values.certificate.enabled }}
tls.existingSecret: excludes certificate.enabled
{{- end }}
{{- $ca := .Values.tls.clientCa }}
{{- if and $ca.existingSecret $ca.existingConfigMap }}
tls.clientCa: existingSecret and existingConfigMap exclude each other
{{- else if and (or $ca.existingSecret $ca.existingConfigMap) (not (include "chat-bridge.tls" .)) }}
tls.clientCa: needs tls.existingSecret or certificate.enabled; without TLS no client would be asked for a certificate
{{- end }}
{{- if and (include "chat-bridge.tls" .) (dig "http" "tls" "" $config) }}
config.http.tls: excludes tls.existingSecret and certificate.enabled
{{- end }}
{{- if .Values.certificate.enabled }}
{{- if not .Values.certificate.issuerRef.name }}
certificate.issuerRef.name: is required
{{- end }}
{{- if not .Values.certificate.dnsNames }}
certificate.dnsNames: at least one name is required
{{- end }}
{{- end }}
{{- end }}

{{- define "chat-bridge.validate.journal" -}}
{{- $persistence := .Values.persistence -}}
{{- if not $persistence.acknowledgeDataLoss }}
{{- if not $persistence.enabled }}
persistence.enabled: without a volume a pod that goes takes the callbacks with it that it has answered and not published (set persistence.acknowledgeDataLoss=true if that is meant)
{{- else }}
{{- range $when := list "whenDeleted" "whenScaled" }}
{{- if eq (index $persistence.retentionPolicy $when) "Delete" }}
persistence.retentionPolicy.{{ $when }}: Delete takes a journal away whatever it still holds; drain it first (set persistence.acknowledgeDataLoss=true if that is meant)
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- $max := include "chat-bridge.setting" (dict "root" . "section" "journal" "key" "size_max" "default" "8GiB") }}
{{- $free := include "chat-bridge.setting" (dict "root" . "section" "journal" "key" "free_space_min" "default" "256MiB") }}
{{- $bytes := dict "config.journal.size_max" (include "chat-bridge.bytes" $max) "config.journal.free_space_min" (include "chat-bridge.bytes" $free) "persistence.size" (include "chat-bridge.bytes" $persistence.size) }}
{{- $known := true }}
{{- range $key, $value := $bytes }}
{{- if not $value }}
{{- $known = false }}
{{ $key }}: is not a size with its unit
{{- end }}
{{- end }}
{{- if $known }}
{{- $of := index $bytes "persistence.size" | float64 }}
{{- if gt (index $bytes "config.journal.size_max" | float64) (mulf 0.8 $of) }}
config.journal.size_max: {{ $max }} is more than 80 % of persistence.size ({{ $persistence.size }}), and the volume would be full before the journal is
{{- else if gt (addf (index $bytes "config.journal.size_max" | float64) (index $bytes "config.journal.free_space_min" | float64)) (mulf 0.95 $of) }}
config.journal.free_space_min: with config.journal.size_max more than 95 % of persistence.size ({{ $persistence.size }})
{{- end }}
{{- end }}
{{- range $volume := concat .Values.extraVolumes .Values.extraVolumeMounts }}
{{- if and (has $volume.name (list "data" "config")) (not $volume.mountPath) }}
extraVolumes: {{ $volume.name }} is the name of a volume of the chart
{{- end }}
{{- end }}
{{- end }}

{{- define "chat-bridge.validate.stop" -}}
{{- $periods := dict
    "config.shutdown.lame_duck" (include "chat-bridge.setting" (dict "root" . "section" "shutdown" "key" "lame_duck" "default" "5s"))
    "config.shutdown.drain_max" (include "chat-bridge.setting" (dict "root" . "section" "shutdown" "key" "drain_max" "default" "20s"))
    "config.http.body_timeout" (include "chat-bridge.setting" (dict "root" . "section" "http" "key" "body_timeout" "default" "10s"))
    "config.journal.answer_max" (include "chat-bridge.setting" (dict "root" . "section" "journal" "key" "answer_max" "default" "1500ms")) -}}
{{- $sum := 10000.0 -}}
{{- $known := true -}}
{{- range $key, $period := $periods }}
{{- $milliseconds := include "chat-bridge.milliseconds" $period }}
{{- if not $milliseconds }}
{{- $known = false }}
{{ $key }}: {{ $period }} is not a duration of milliseconds, seconds, minutes and hours
{{- else }}
{{- $sum = addf $sum (float64 $milliseconds) }}
{{- end }}
{{- end }}
{{- if $known }}
{{- $grace := mulf 1000.0 (float64 .Values.terminationGracePeriodSeconds) }}
{{- if gt $sum $grace }}
terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }} s are less than config.shutdown.lame_duck + config.http.body_timeout + config.journal.answer_max + config.shutdown.drain_max + 10 s = {{ divf $sum 1000.0 }} s, so a stop would be cut short
{{- end }}
{{- $readiness := .Values.probes.readiness }}
{{- $notice := mulf 1000.0 (float64 $readiness.periodSeconds) (float64 $readiness.failureThreshold) }}
{{- $lameDuck := include "chat-bridge.milliseconds" (index $periods "config.shutdown.lame_duck") | float64 }}
{{- if ge $notice $lameDuck }}
probes.readiness: periodSeconds x failureThreshold must be less than config.shutdown.lame_duck ({{ index $periods "config.shutdown.lame_duck" }}), or a drained instance refuses callbacks that are still sent to it
{{- end }}
{{- end }}
{{- end }}

{{- define "chat-bridge.validate.scale" -}}
{{- $hpa := .Values.hpa -}}
{{- if $hpa.enabled }}
{{- if gt (int $hpa.minReplicas) (int $hpa.maxReplicas) }}
hpa.maxReplicas: is less than hpa.minReplicas
{{- end }}
{{- if not (or $hpa.targetCPUUtilizationPercentage $hpa.metrics) }}
hpa.metrics: nothing to scale by; set it or hpa.targetCPUUtilizationPercentage
{{- end }}
{{- if and $hpa.targetCPUUtilizationPercentage (not (dig "requests" "cpu" "" .Values.resources)) }}
hpa.targetCPUUtilizationPercentage: is a share of resources.requests.cpu, which is not set
{{- end }}
{{- end }}
{{- $fewest := ternary $hpa.minReplicas .Values.replicas $hpa.enabled | int }}
{{- $away := dict "podDisruptionBudget.maxUnavailable" (ternary .Values.podDisruptionBudget.maxUnavailable 1 .Values.podDisruptionBudget.enabled) }}
{{- $_ := set $away "updateStrategy.rollingUpdate.maxUnavailable" (dig "rollingUpdate" "maxUnavailable" 1 .Values.updateStrategy) }}
{{- range $key, $count := $away }}
{{- $gone := int $count }}
{{- if hasSuffix "%" (toString $count) }}
{{- /* Kubernetes rounds the budget up, and the strategy down. */}}
{{- $hundredths := mul (trimSuffix "%" $count | int) $fewest }}
{{- $gone = div (ternary (add $hundredths 99) $hundredths (hasPrefix "podDisruptionBudget" $key)) 100 | int }}
{{- end }}
{{- if and (gt $fewest 1) (ge $gone $fewest) }}
{{ $key }}: {{ $count }} lets all {{ $fewest }} instances go at once, and callbacks of that time are lost
{{- end }}
{{- end }}
{{- $last := include "chat-bridge.lastInstance" . | int }}
{{- if eq (include "chat-bridge.setting" (dict "root" . "section" "kafka" "key" "delivery" "default" "at-least-once")) "exactly-once" }}
{{- $partitions := include "chat-bridge.positionsPartitions" . | int }}
{{- if ge $last $partitions }}
config.kafka.delivery: instance {{ $last }} needs more than the {{ $partitions }} partitions of {{ include "chat-bridge.positionsTopic" . }}, or all that it receives waits in its journal; see config.topics.config
{{- end }}
{{- end }}
{{- $instance := .Values.drainJob.instance }}
{{- if not (kindIs "invalid" $instance) }}
{{- $first := int .Values.ordinalsStart }}
{{- $running := $last }}
{{- if $hpa.enabled }}
{{- /* The autoscaler may make it again; its pod then waits for the volume until the Job has ended. */}}
{{- $running = sub (add $first (max (include "chat-bridge.liveReplicas" . | int) (int $hpa.minReplicas))) 1 }}
{{- end }}
{{- if and (ge (int $instance) $first) (le (int $instance) (int $running)) }}
drainJob.instance: {{ $instance }} is one of the instances that run ({{ $first }} to {{ $running }}), and its pod holds the journal
{{- end }}
{{- if not .Values.persistence.enabled }}
drainJob.instance: without persistence there is no volume to drain
{{- end }}
{{- end }}
{{- if not .Values.allowScaleIn }}
{{- $live := lookup "apps/v1" "StatefulSet" (include "chat-bridge.namespace" .) (include "chat-bridge.fullname" .) }}
{{- $now := include "chat-bridge.liveReplicas" . | int }}
{{- $most := ternary $hpa.maxReplicas .Values.replicas $hpa.enabled | int }}
{{- if lt $most $now }}
{{ ternary "hpa.maxReplicas" "replicas" $hpa.enabled }}: {{ $most }} is less than the {{ $now }} that run, and the instances that go keep in their volumes what they have not published: drain them first ("Scaling in" of the chart's README; set allowScaleIn=true once it is done)
{{- end }}
{{- if and $live (ne (dig "spec" "ordinals" "start" 0 $live | int) (int .Values.ordinalsStart)) }}
ordinalsStart: differs from that of the instances that run, so some of them would go without having been drained (set allowScaleIn=true once they are)
{{- end }}
{{- end }}
{{- end }}

{{- define "chat-bridge.validate.edge" -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) }}
ingress.hosts: at least one host is required
{{- end }}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}
httpRoute.parentRefs: at least one Gateway is required
{{- end }}
{{- if and (or .Values.ingress.enabled .Values.httpRoute.enabled) (not (dig "http" "trusted_proxies" "" .Values.config)) }}
{{- range $app := default list .Values.config.apps }}
{{- if $app.sources }}
config.http.trusted_proxies: is required where an app has sources and callbacks come through a proxy, or each is refused for the proxy's address
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.service.nodePort (eq .Values.service.type "ClusterIP") }}
service.nodePort: needs service.type NodePort or LoadBalancer
{{- end }}
{{- end }}

{{- define "chat-bridge.validate.monitoring" -}}
{{- if and .Values.serviceMonitor.enabled .Values.podMonitor.enabled }}
podMonitor.enabled: excludes serviceMonitor.enabled, or each instance is scraped twice
{{- end }}
{{- if and .Values.networkPolicy.enabled (or .Values.serviceMonitor.enabled .Values.podMonitor.enabled) (not .Values.networkPolicy.admin.from) }}
networkPolicy.admin.from: Prometheus could not reach the bridge
{{- end }}
{{- if and .Values.strimzi.enabled (not .Values.strimzi.cluster) }}
strimzi.cluster: is required
{{- end }}
{{- end }}
