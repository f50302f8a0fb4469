{{- define "quorate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 53 | trimSuffix "-" }}
{{- end }}

{{/* quorate-operator for the release quorate; another release's name comes before it. */}}
{{- define "quorate.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride }}
{{- else if contains (include "quorate.name" .) .Release.Name }}
{{- printf "%s-operator" (.Release.Name | trunc 53 | trimSuffix "-") }}
{{- else }}
{{- printf "%s-%s-operator" .Release.Name (include "quorate.name" .) | trunc 62 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "quorate.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "quorate.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "quorate.selector" -}}
app.kubernetes.io/name: quorate-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "quorate.labels" -}}
{{ include "quorate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: quorate
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Takes a list: the root, and an image with repository and tag. */}}
{{- define "quorate.imageName" -}}
{{- $root := index . 0 }}
{{- $image := index . 1 }}
{{- with $root.Values.global.imageRegistry }}{{ . | trimSuffix "/" }}/{{ end }}
{{- $image.repository }}:{{ default $root.Chart.AppVersion $image.tag }}
{{- end }}

{{- define "quorate.pullSecrets" -}}
{{- with concat .Values.global.imagePullSecrets .Values.imagePullSecrets | uniq }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* What the operator may do with KVClusters and what it makes of them: operator/README.md tells why. */}}
{{- define "quorate.rules" -}}
- apiGroups: [quorate.dev]
  resources: [kvclusters]
  verbs: [get, list, watch, patch]
- apiGroups: [quorate.dev]
  resources: [kvclusters/status]
  verbs: [patch]
- apiGroups: [quorate.dev]
  resources: [kvclusters/finalizers]
  verbs: [update]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, patch, delete]
- apiGroups: [""]
  resources: [services, configmaps]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [get, create, patch]
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [list, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}
