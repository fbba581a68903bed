{{/* `spec` of the Job that publishes what the volume of an instance that is gone still holds. */}}
{{- define "chat-bridge.drainJob" -}}
{{- $job := .Values.drainJob -}}
{{- $instance := include "chat-bridge.plain" $job.instance -}}
backoffLimit: {{ $job.backoffLimit }}
{{- with $job.ttlSecondsAfterFinished }}
ttlSecondsAfterFinished: {{ . }}
{{- end }}
# 69, Kafka is not there, is worth another try. Corruption, a disk that fails, and a configuration that is wrong are not.
podFailurePolicy:
  rules:
    - action: FailJob
      onExitCodes:
        containerName: drain
        operator: In
        values: [64, 65, 74, 78]
      # Kubernetes 1.28 asks for the list, if only an empty one.
      onPodConditions: []
    - action: Ignore
      onPodConditions:
        - type: DisruptionTarget
          status: "True"
template:
  metadata:
    labels:
      {{- toYaml (merge (include "chat-bridge.releaseLabels" . | fromYaml) (dict "app.kubernetes.io/component" "drain" "app.kubernetes.io/part-of" "chat-bridge") (default dict .Values.podLabels)) | nindent 6 }}
    annotations:
      checksum/config: {{ include "chat-bridge.config.toml" . | sha256sum }}
      {{- with .Values.podAnnotations }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
  spec:
    {{- include "chat-bridge.podSpec" . | nindent 4 }}
    enableServiceLinks: false
    restartPolicy: Never
    {{- with .Values.initContainers }}
    initContainers:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    containers:
      - name: drain
        {{- include "chat-bridge.container" (dict "root" . "instance" $instance "bind" false) | nindent 8 }}
        args:
          - journal
          - drain
          - --timeout
          - {{ $job.timeout | quote }}
        {{- with .Values.resources }}
        resources:
          {{- toYaml . | nindent 10 }}
        {{- end }}
        volumeMounts:
          - name: data
            mountPath: {{ include "chat-bridge.journalDir" . }}
          - name: config
            mountPath: {{ include "chat-bridge.configDir" . }}
            readOnly: true
          {{- with .Values.extraVolumeMounts }}
          {{- toYaml . | nindent 10 }}
          {{- end }}
    volumes:
      - {{- include "chat-bridge.configVolume" . | nindent 8 }}
      - name: data
        persistentVolumeClaim:
          claimName: data-{{ include "chat-bridge.fullname" . }}-{{ $instance }}
      {{- with .Values.extraVolumes }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
{{- end }}
