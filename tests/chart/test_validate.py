"""What the chart refuses, each with the words that say why; and what it takes right beside it."""

import re

import pytest

import support
from support import CHART, HELMS, MINIMAL

UNSIGNED = {"secrets": {"allowUnsigned": True}}
TOKEN = {"existingSecret": "s", "key": "k"}
APP = {"sdk_app_id": 1400000000}
EXACTLY = {"kafka": {"delivery": "exactly-once"}}

# Name, values above ci/minimal-values.yaml, a part of the message, and values that are just right.
REFUSED = [
    ("no app", {"config": {"apps": []}}, "config.apps: at least one app is required", {}),
    ("no kafka", {"config": {"kafka": {"bootstrap_servers": ""}}}, "config.kafka.bootstrap_servers: is required", {}),
    ("port 0", {"config": {"http": {"listen": "0.0.0.0:0"}}}, "config.http.listen: 0.0.0.0:0 has no port", {"config": {"http": {"listen": "0.0.0.0:1"}}}),
    ("loopback", {"config": {"admin": {"listen": "127.0.0.1:9090"}}}, "config.admin.listen: 127.0.0.1:9090 cannot be reached", {"config": {"admin": {"listen": "[::]:9090"}}}),
    ("loopback 6", {"config": {"http": {"listen": "[::1]:8080"}}}, "config.http.listen: [::1]:8080 cannot be reached", None),
    ("one port for both", {"config": {"admin": {"listen": "0.0.0.0:8080"}}}, "config.admin.listen: the port is that of config.http.listen", None),
    ("one instance for all", {"config": {"kafka": {"instance": "0"}}}, "config.kafka.instance: all pods would have the same one", None),
    ("journal elsewhere", {"config": {"journal": {"dir": "/tmp/j"}}}, "config.journal.dir: the volume is mounted at /var/lib/chat-bridge", {"config": {"journal": {"dir": "/var/lib/chat-bridge"}}}),
    *[(f"environment {name}", {"extraEnv": [{"name": name, "value": "x"}]}, f"extraEnv: {name} belongs into config", {"extraEnv": [{"name": "CHAT_BRIDGE_LOG__LEVEL", "value": "debug"}]})
      for name in ("CHAT_BRIDGE_JOURNAL__SIZE_MAX", "CHAT_BRIDGE_SHUTDOWN__DRAIN_MAX", "CHAT_BRIDGE_ADMIN__LISTEN", "CHAT_BRIDGE_HTTP__LISTEN", "CHAT_BRIDGE_HTTP__BODY_TIMEOUT",
                   "CHAT_BRIDGE_KAFKA__INSTANCE", "CHAT_BRIDGE_KAFKA__DELIVERY", "CHAT_BRIDGE_APPS", "CHAT_BRIDGE_CONFIG", "CHAT_BRIDGE_HTTP__TLS__CERTIFICATE")],
    ("unsigned", {"config": {"apps": [APP, {"sdk_app_id": 5}]}}, "secrets.tokens: app 5 has no tokens", {"config": {"apps": [APP, {"sdk_app_id": 5, "tokens_file": "/x"}]}}),
    ("no tokens at all", {"secrets": {"tokens": None}}, "secrets.tokens: app 1400000000 has no tokens", {"secrets": {"tokens": None, "allowUnsigned": True, "rollOnChange": True}}),
    ("tokens of no app", {"secrets": {"tokens": {"7": TOKEN}}}, "secrets.tokens.7: config.apps has no such app", {"config": {"apps": [APP, {"sdk_app_id": 7}]}, "secrets": {"tokens": {"7": TOKEN}}}),
    ("tokens twice", {"config": {"apps": [APP | {"tokens_file": "/x"}]}}, "secrets.tokens.1400000000: config.apps has a tokens_file", None),
    ("two sources", {"secrets": {"kafka": {"ssl.ca.location": TOKEN | {"existingConfigMap": "c"}}}}, "secrets.kafka.ssl.ca.location: existingSecret and existingConfigMap exclude", {"secrets": {"kafka": {"ssl.ca.location": {"existingConfigMap": "c", "key": "k"}}}}),
    ("no source", {"secrets": {"kafka": {"sasl.password": {"key": "k"}}}}, "secrets.kafka.sasl.password: existingSecret is required", {"secrets": {"kafka": {"sasl.password": TOKEN}}}),
    ("a password in a ConfigMap", {"secrets": {"kafka": {"sasl.password": {"existingConfigMap": "c", "key": "k"}}}}, "secrets.kafka.sasl.password: a secret does not belong into a ConfigMap", None),
    ("a property twice", {"config": {"kafka": {"properties": {"ssl.ca.location": "/x"}}}, "secrets": {"kafka": {"ssl.ca.location": TOKEN}}}, "secrets.kafka.ssl.ca.location: config.kafka has it already", None),
    ("a secret twice", {"config": {"kafka": {"secret_files": {"sasl.password": "/x"}}}, "secrets": {"kafka": {"sasl.password": TOKEN}}}, "secrets.kafka.sasl.password: config.kafka has it already", {"config": {"kafka": {"secret_files": {"sasl.password": "/x"}}}}),
    *[(f"plain {name}", {"config": {"kafka": {"properties": {name: "hunter2"}}}}, f"config.kafka.properties.{name}: a secret does not belong", None) for name in ("sasl.password", "ssl.key.pem", "sasl.oauthbearer.client.secret")],
    ("two operators' tokens", {"config": {"admin": {"token_file": "/x"}}, "secrets": {"adminToken": {"existingSecret": "a"}}}, "secrets.adminToken: config.admin.token_file is set", {"config": {"admin": {"token_file": "/x"}}}),
    ("two certificates", {"tls": {"existingSecret": "a"}, "certificate": {"enabled": True, "dnsNames": ["a"], "issuerRef": {"name": "i"}}}, "tls.existingSecret: excludes certificate.enabled", {"tls": {"existingSecret": "a"}}),
    ("two authorities", {"tls": {"existingSecret": "a", "clientCa": {"existingSecret": "a", "existingConfigMap": "b"}}}, "tls.clientCa: existingSecret and existingConfigMap exclude", {"tls": {"existingSecret": "a", "clientCa": {"existingSecret": "a"}}}),
    ("authorities without TLS", {"tls": {"clientCa": {"existingSecret": "a"}}}, "tls.clientCa: needs tls.existingSecret or certificate.enabled", None),
    ("TLS twice", {"tls": {"existingSecret": "a"}, "config": {"http": {"tls": {"certificate": "/x", "private_key": "/y"}}}}, "config.http.tls: excludes tls.existingSecret and certificate.enabled", None),
    ("no issuer", {"certificate": {"enabled": True, "dnsNames": ["a"]}}, "certificate.issuerRef.name: is required", None),
    ("no name", {"certificate": {"enabled": True, "issuerRef": {"name": "i"}}}, "certificate.dnsNames: at least one name", {"certificate": {"enabled": True, "dnsNames": ["a"], "issuerRef": {"name": "i"}}}),
    ("no volume", {"persistence": {"enabled": False}}, "persistence.enabled: without a volume", {"persistence": {"enabled": False, "acknowledgeDataLoss": True}}),
    *[(when, {"persistence": {"retentionPolicy": {when: "Delete"}}}, f"persistence.retentionPolicy.{when}: Delete takes a journal away", {"persistence": {"retentionPolicy": {when: "Delete"}, "acknowledgeDataLoss": True}}) for when in ("whenDeleted", "whenScaled")],
    ("journal larger than its share", {"config": {"journal": {"size_max": "8193MiB"}}}, "config.journal.size_max: 8193MiB is more than 80 % of persistence.size (10Gi)", {"config": {"journal": {"size_max": "8192MiB"}}}),
    ("in other units", {"config": {"journal": {"size_max": 8589934593}}}, "config.journal.size_max: 8589934593 is more than 80 %", {"config": {"journal": {"size_max": "8589MB"}}}),
    ("a small volume", {"persistence": {"size": "9.5Gi"}}, "more than 80 % of persistence.size (9.5Gi)", {"persistence": {"size": "10.5Gi"}}),
    ("a volume of the other kind of unit", {"persistence": {"size": "10G"}}, "more than 80 % of persistence.size (10G)", {"persistence": {"size": "11G"}}),
    ("no room left", {"config": {"journal": {"free_space_min": "1600MiB"}}}, "config.journal.free_space_min: with config.journal.size_max more than 95 %", {"config": {"journal": {"free_space_min": "1500MiB"}}}),
    ("in small letters", {"config": {"journal": {"size_max": "8.5gib"}}}, "config.journal.size_max: 8.5gib is more than 80 %", {"config": {"journal": {"size_max": "8. gib"}}}),
    ("no size", {"config": {"journal": {"size_max": "+8"}}}, "config.journal.size_max: is not a size with its unit", None),
    ("a volume of the chart's", {"extraVolumes": [{"name": "data", "emptyDir": {}}]}, "extraVolumes: data is the name of a volume of the chart", {"extraVolumes": [{"name": "date", "emptyDir": {}}], "extraVolumeMounts": [{"name": "data", "mountPath": "/other"}]}),
    ("short grace", {"terminationGracePeriodSeconds": 44}, "terminationGracePeriodSeconds: 44 s are less than", {"terminationGracePeriodSeconds": 45}),
    ("long drain", {"config": {"shutdown": {"drain_max": "19s"}}}, "= 45.5 s, so a stop would be cut short", {"config": {"shutdown": {"drain_max": "18500ms"}}}),
    ("the bridge's default drain", {"config": {"shutdown": {"drain_max": None}}}, "= 46.5 s, so a stop would be cut short", {"config": {"shutdown": {"drain_max": None}}, "terminationGracePeriodSeconds": 47}),
    ("long lame duck", {"config": {"shutdown": {"lame_duck": "1m 10s"}}}, "= 109.5 s", {"config": {"shutdown": {"lame_duck": "1m 10s"}}, "terminationGracePeriodSeconds": 110}),
    ("slow bodies", {"config": {"http": {"body_timeout": "11s"}}}, "= 45.5 s", None),
    ("slow answers", {"config": {"journal": {"answer_max": "2001ms"}}}, "= 45.001 s", None),
    ("a longer duration than anybody waits", {"config": {"shutdown": {"lame_duck": "1d"}}}, "config.shutdown.lame_duck: 1d is not a duration of milliseconds, seconds, minutes and hours", None),
    ("slow to notice", {"probes": {"readiness": {"failureThreshold": 3}}}, "probes.readiness: periodSeconds x failureThreshold must be less than config.shutdown.lame_duck (5s)", {"probes": {"readiness": {"periodSeconds": 1, "failureThreshold": 4}}}),
    ("most below fewest", {"hpa": {"enabled": True, "minReplicas": 3, "maxReplicas": 2}, "resources": {"requests": {"cpu": 1}}}, "hpa.maxReplicas: is less than hpa.minReplicas", {"hpa": {"enabled": True, "minReplicas": 2, "maxReplicas": 2}, "resources": {"requests": {"cpu": 1}}}),
    ("all may be evicted", {"podDisruptionBudget": {"maxUnavailable": 2}}, "podDisruptionBudget.maxUnavailable: 2 lets all 2 instances go at once", {"podDisruptionBudget": {"maxUnavailable": 2}, "replicas": 3}),
    ("all of them in percent", {"updateStrategy": {"rollingUpdate": {"maxUnavailable": "100%"}}}, "updateStrategy.rollingUpdate.maxUnavailable: 100% lets all 2 instances", {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 1}}}),
    ("a budget in percent, rounded up", {"podDisruptionBudget": {"maxUnavailable": "60%"}}, "podDisruptionBudget.maxUnavailable: 60% lets all 2", {"podDisruptionBudget": {"maxUnavailable": "50%"}}),
    ("all of the fewest", {"podDisruptionBudget": {"maxUnavailable": 3}, "replicas": 9, "hpa": {"enabled": True, "minReplicas": 3}, "resources": {"requests": {"cpu": 1}}}, "maxUnavailable: 3 lets all 3", None),
    ("a share of nothing", {"hpa": {"enabled": True}}, "hpa.targetCPUUtilizationPercentage: is a share of resources.requests.cpu", None),
    ("nothing to scale by", {"hpa": {"enabled": True, "targetCPUUtilizationPercentage": None}}, "hpa.metrics: nothing to scale by", None),
    ("more instances than partitions", {"config": EXACTLY, "replicas": 33}, "config.kafka.delivery: instance 32 needs more than the 32 partitions of chat-bridge.positions", {"config": EXACTLY, "replicas": 32}),
    ("numbers above the partitions", {"config": EXACTLY, "ordinalsStart": 31}, "config.kafka.delivery: instance 32 needs", {"config": EXACTLY | {"topics": {"config": {"chat-bridge.positions": {"partitions": 33}}}}, "ordinalsStart": 31}),
    ("scaling beyond the partitions", {"config": EXACTLY, "hpa": {"enabled": True, "maxReplicas": 40}, "resources": {"requests": {"cpu": 1}}}, "config.kafka.delivery: instance 39 needs", None),
    ("drain of one that runs", {"drainJob": {"instance": 1}}, "drainJob.instance: 1 is one of the instances that run (0 to 1)", {"drainJob": {"instance": 2}}),
    ("drain of the first", {"drainJob": {"instance": 0}}, "drainJob.instance: 0 is one of the instances that run", {"drainJob": {"instance": 0}, "replicas": 0}),
    ("drain below the first", {"drainJob": {"instance": 5}, "ordinalsStart": 5}, "(5 to 6)", {"drainJob": {"instance": 4}, "ordinalsStart": 5}),
    ("drain without a volume", {"drainJob": {"instance": 4}, "persistence": {"enabled": False, "acknowledgeDataLoss": True}}, "drainJob.instance: without persistence there is no volume", None),
    ("no host", {"ingress": {"enabled": True}}, "ingress.hosts: at least one host", {"ingress": {"enabled": True, "hosts": [{"host": "a"}]}}),
    ("no Gateway", {"httpRoute": {"enabled": True}}, "httpRoute.parentRefs: at least one Gateway", {"httpRoute": {"enabled": True, "parentRefs": [{"name": "a"}]}}),
    ("sources behind a proxy", {"config": {"apps": [APP | {"sources": ["203.0.113.0/24"]}]}, "ingress": {"enabled": True, "hosts": [{"host": "a"}]}}, "config.http.trusted_proxies: is required",
     {"config": {"apps": [APP | {"sources": ["203.0.113.0/24"]}], "http": {"trusted_proxies": ["10.0.0.0/8"]}}, "ingress": {"enabled": True, "hosts": [{"host": "a"}]}}),
    ("a node's port of a ClusterIP", {"service": {"nodePort": 30000}}, "service.nodePort: needs service.type", {"service": {"nodePort": 30000, "type": "NodePort"}}),
    ("scraped twice", {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}}, "podMonitor.enabled: excludes serviceMonitor.enabled", {"podMonitor": {"enabled": True}}),
    ("out of Prometheus' reach", {"podMonitor": {"enabled": True}, "networkPolicy": {"enabled": True}}, "networkPolicy.admin.from: Prometheus could not reach", {"podMonitor": {"enabled": True}, "networkPolicy": {"enabled": True, "admin": {"from": [{"podSelector": {}}]}}}),
    ("no cluster", {"strimzi": {"enabled": True}}, "strimzi.cluster: is required", {"strimzi": {"enabled": True, "cluster": "c"}}),
    ("an alert that is not there", {"prometheusRule": {"enabled": True, "disabled": {"ChatBridgeNoSuch": True}}}, "there is no alert ChatBridgeNoSuch", {"prometheusRule": {"enabled": True, "disabled": {"ChatBridgeFixtureOne": True}}}),
    ("another alert that is not there", {"prometheusRule": {"enabled": True, "overrides": {"ChatBridgeNoSuch": {"for": "1m"}}}}, "there is no alert ChatBridgeNoSuch", None),
    ("an optional alert that is not there", {"prometheusRule": {"enabled": True, "optional": ["ChatBridgeNoSuch"]}}, "there is no alert ChatBridgeNoSuch", {"prometheusRule": {"enabled": True, "optional": ["ChatBridgeFixtureThree"]}}),
]


@pytest.mark.parametrize("values, message", [pytest.param(values, message, id=name) for name, values, message, _ in REFUSED])
def test_it_is_refused(chart, values, message):
    done = chart.render(MINIMAL, values=values)
    assert done.code != 0
    assert message in done.err


@pytest.mark.parametrize("values", [pytest.param(right, id=name) for name, _, _, right in REFUSED if right is not None])
def test_what_is_just_right_is_taken(chart, values):
    done = chart.render(MINIMAL, values=values)
    assert done.code == 0, done.err


def test_all_problems_are_told_at_once(chart):
    done = chart.render(values={"persistence": {"enabled": False}, "terminationGracePeriodSeconds": 10})
    assert done.code != 0
    for message in ("config.apps:", "config.kafka.bootstrap_servers:", "persistence.enabled:", "terminationGracePeriodSeconds:"):
        assert f"- {message}" in done.err


def test_each_rule_is_tested(chart):
    """Each line of a problem in the templates is told by a case above; the two that ask the cluster are in test_cluster.py."""
    told = "\n".join(chart.render(MINIMAL, values=values).err for _, values, _, _ in REFUSED)
    rules = [line for line in (CHART / "templates/_validate.tpl").read_text().splitlines() if re.match(r"(\{\{ \$key \}\}|[a-zA-Z]+\.?[a-zA-Z.]*)[^:]*: ", line)]
    assert len(rules) >= 45
    for rule in rules:
        pattern = ".*".join(re.escape(part) for part in re.split(r"\{\{.*?\}\}", rule))
        assert "allowScaleIn" in rule or re.search(f"- {pattern}$", told, re.M), rule


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("api, file, value", [
    ("monitoring.coreos.com/v1", "ci/podmonitor-values.yaml", "podMonitor.enabled"),
    ("monitoring.coreos.com/v1", "ci/monitoring-values.yaml", "Monitor.enabled|prometheusRule.enabled"),
    ("gateway.networking.k8s.io/v1", "ci/gateway-values.yaml", "httpRoute.enabled"),
    ("cert-manager.io/v1", "ci/certificate-values.yaml", "certificate.enabled"),
    ("kafka.strimzi.io/v1", "ci/strimzi-values.yaml", "strimzi.enabled"),
])
def test_what_needs_an_api_that_is_not_there_is_refused(chart, helm, api, file, value):
    without = [one for one in support.APIS if one != api]
    done = chart.render(file, helm=helm, apis=without)
    assert done.code != 0
    assert re.search(f"({value}) needs the API {re.escape(api)}", done.err), done.err
    assert chart.render(file, helm=helm, apis=without, values={"checkApis": False}).code == 0
