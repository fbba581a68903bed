"""values.yaml, values.schema.json and what becomes of each value."""

import copy
import json

import jsonschema
import pytest
import yaml

import support
from support import CHART, HELMS, MINIMAL, nested

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())

# Open on purpose: `global` belongs to the chart that has this one as a part, and these are types of Kubernetes and of operators,
# which the server checks. Anything else is closed.
FOREIGN = "Kubernetes' or an operator's type, named in its description"


def objects(schema, path=()):
    """Every schema of an object in the schema, with its path."""
    if "$ref" in schema:
        schema = SCHEMA["definitions"][schema["$ref"].removeprefix("#/definitions/")]
    if schema.get("type") == "object" or "object" in (schema.get("type") if isinstance(schema.get("type"), list) else ()):
        yield path, schema
    for key, inner in schema.get("properties", {}).items():
        yield from objects(inner, (*path, key))
    for key, inner in schema.get("patternProperties", {}).items():
        yield from objects(inner, (*path, key))
    if isinstance(schema.get("additionalProperties"), dict):
        yield from objects(schema["additionalProperties"], (*path, "*"))
    if isinstance(schema.get("items"), dict):
        yield from objects(schema["items"], (*path, "[]"))


def test_the_schema_is_one_and_takes_the_defaults():
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(VALUES, SCHEMA)


def test_every_object_of_the_schema_is_closed():
    open_ones = [".".join(path) for path, schema in objects(SCHEMA) if schema.get("additionalProperties", True) is True]
    foreign = {"global", "extraObjects.[]"}
    for path, schema in objects(SCHEMA):
        name = ".".join(path)
        parent = SCHEMA
        for key in path[:-1] if path[-1:] == ("[]",) else ():
            parent = parent["items"] if key == "[]" else parent.get("properties", {}).get(key) or parent.get("additionalProperties")
        about = (schema.get("description") or parent.get("description") or "").split("/")[0]
        if name in open_ones and name not in foreign:
            assert about and about[0].islower() and "properties" not in schema, f"{name} is open and not {FOREIGN}"
    assert "" not in open_ones
    assert len(open_ones) < 50


def above(low, high):
    for key, value in high.items():
        low[key] = above(low.get(key, {}), value) if isinstance(value, dict) and isinstance(low.get(key), dict) else value
    return low


def closed_paths():
    for path, schema in objects(SCHEMA):
        if schema.get("additionalProperties") is False and not {"[]", "*"} & set(path) and not any("^" in key for key in path):
            yield path


def refusals(values):
    minimal = yaml.safe_load((CHART / MINIMAL).read_text())
    return [error.message for error in jsonschema.Draft7Validator(SCHEMA).iter_errors(above(above(copy.deepcopy(VALUES), minimal), values))]


@pytest.mark.parametrize("path", closed_paths(), ids=lambda path: ".".join(path) or "top")
def test_an_unknown_key_is_refused(path):
    assert any("mis-Spelt" in message for message in refusals(nested([*path, "mis-Spelt"], 1)))


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("path", [(), ("image",), ("config",), ("config", "http", "tls"), ("secrets", "tokens"), ("tls", "clientCa"), ("networkPolicy", "egress", "kafka"), ("probes", "readiness")], ids=".".join)
def test_helm_refuses_an_unknown_key(chart, helm, path):
    done = chart.render(MINIMAL, values=nested([*path, "mis-Spelt"], 1), helm=helm)
    assert done.code != 0
    assert "mis-Spelt" in done.err and "schema" in done.err


WRONG = [
    {"replicas": "two"}, {"replicas": -1}, {"image": {"digest": "sha256:123"}}, {"image": {"tag": "a b"}}, {"image": {"pullPolicy": "Sometimes"}}, {"persistence": {"size": "10GiB"}},
    {"persistence": {"accessMode": "ReadWriteMany"}}, {"persistence": {"retentionPolicy": {"whenScaled": "Keep"}}}, {"podManagementPolicy": "parallel"}, {"service": {"type": "ExternalName"}},
    {"secrets": {"tokens": {"app": {"existingSecret": "a", "key": "b"}}}}, {"secrets": {"tokens": {"5": {"existingSecret": "a"}}}}, {"secrets": {"tokens": {"1400000000": "a-token"}}},
    {"config": {"apps": [{"sdk_app_id": "1400000000"}]}}, {"config": {"apps": [{}]}}, {"config": {"kafak": None, "kafka": 5}}, {"updateStrategy": {"type": "Recreate"}}, {"podDisruptionBudget": {"maxUnavailable": 0}},
    {"podDisruptionBudget": {"maxUnavailable": "0%"}}, {"extraEnv": [{"value": "x"}]}, {"drainJob": {"instance": "all"}}, {"service": {"port": 70000}}, {"certificate": {"privateKey": {"rotationPolicy": "Sometimes"}}},
    {"strimzi": {"user": {"authentication": "plain"}}}, {"fullnameOverride": "With_Signs"}, {"helmTest": {"address": "name"}}, {"prometheusRule": {"overrides": {"A": {"severity": "page"}}}},
]


@pytest.mark.parametrize("values", WRONG, ids=str)
def test_a_wrong_value_is_refused(values):
    assert refusals({}) == []
    assert refusals(values)


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("values", WRONG[::7], ids=str)
def test_helm_refuses_a_wrong_value(chart, helm, values):
    done = chart.render(MINIMAL, values=values, helm=helm)
    assert done.code != 0
    assert "schema" in done.err, done.err


def leaves(value, path=()):
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    else:
        yield path, value


# The file in which a value of this key can be seen, where it is not the least one.
SEEN_IN = {
    "certificate": "ci/certificate-values.yaml", "tls": "ci/loadbalancer-tls-values.yaml", "drainJob": "ci/drain-job-values.yaml", "ingress": "ci/ingress-values.yaml",
    "httpRoute": "ci/gateway-values.yaml", "networkPolicy": "ci/network-policy-values.yaml", "hpa": "ci/hpa-values.yaml", "serviceMonitor": "ci/monitoring-values.yaml",
    "podMonitor": "ci/podmonitor-values.yaml", "prometheusRule": "ci/monitoring-values.yaml", "dashboards": "ci/monitoring-values.yaml", "strimzi": "ci/strimzi-values.yaml",
    "checkApis": "ci/gateway-values.yaml", "podIPFamily": "ci/pod-ip-values.yaml",
}
OTHER = {"existingSecret": "other", "key": "other"}
PEERS = [{"podSelector": {"matchLabels": {"a": "b"}}}]
# Another value, where one of the same type would not do: the default and what is in the files differ from it.
ANOTHER = {
    "config.http.listen": "0.0.0.0:8081", "config.admin.listen": "0.0.0.0:9091", "config.apps": [{"sdk_app_id": 1400000000, "sources": ["10.0.0.0/8"]}], "config.journal.size_max": "4GiB",
    "config.shutdown.lame_duck": "4500ms", "config.shutdown.drain_max": "10s", "image.tag": "1.2.3", "image.digest": f"sha256:{'0' * 64}", "image.pullPolicy": "Always",
    "secrets.tokens": {"1400000000": OTHER}, "secrets.kafka": {"ssl.ca.location": OTHER}, "tls.clientCa.existingConfigMap": "other", "persistence.size": "20Gi", "persistence.accessMode": "ReadWriteOnce",
    "persistence.selector": {"matchLabels": {"a": "b"}}, "persistence.retentionPolicy.whenDeleted": "Delete", "persistence.retentionPolicy.whenScaled": "Delete", "drainJob.instance": 3, "drainJob.timeout": "90s",
    "drainJob.ttlSecondsAfterFinished": 5, "service.type": "NodePort", "service.nodePort": 30001, "service.externalTrafficPolicy": "Cluster", "service.ipFamilyPolicy": "SingleStack", "service.ipFamilies": ["IPv6"],
    "service.loadBalancerSourceRanges": ["10.0.0.0/8"], "ingress.hosts": [{"host": "other"}], "ingress.tls": [{"secretName": "other"}], "httpRoute.parentRefs": [{"name": "other"}], "httpRoute.hostnames": ["other"],
    "httpRoute.matches": [{"path": {"type": "Exact", "value": "/other"}}], "httpRoute.filters": [], "httpRoute.timeouts": {"request": "3s"}, "httpRoute.additionalRules": [], "podIPFamily": "IPv6",
    "networkPolicy.http.from": PEERS, "networkPolicy.admin.from": PEERS, "networkPolicy.egress.dns.to": PEERS, "networkPolicy.egress.kafka.to": PEERS, "networkPolicy.egress.kafka.ports": [1], "networkPolicy.egress.extra": [{"to": PEERS}],
    "podManagementPolicy": "OrderedReady", "updateStrategy.type": "OnDelete", "terminationGracePeriodSeconds": 60, "podDisruptionBudget.maxUnavailable": "50%", "podDisruptionBudget.unhealthyPodEvictionPolicy": "IfHealthyBudget", "hpa.metrics": [],
    "hpa.scaleUp": {"selectPolicy": "Min"}, "topologySpreadConstraints": [], "affinity": {"nodeAffinity": {}}, "nodeSelector": {"a": "b"}, "tolerations": [{"key": "a"}], "hostUsers": False, "dnsPolicy": "None",
    "dnsConfig": {"nameservers": ["10.0.0.1"]}, "hostAliases": [{"ip": "10.0.0.1"}], "resources": {"limits": {"memory": "1Gi"}}, "probes.readiness.periodSeconds": 1, "probes.readiness.failureThreshold": 1,
    "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}, "extraArgs": ["--x"], "extraEnv": [{"name": "A", "value": "b"}], "extraEnvFrom": [{"configMapRef": {"name": "a"}}], "extraVolumes": [{"name": "a", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "a", "mountPath": "/a"}], "initContainers": [{"name": "a"}], "extraContainers": [{"name": "a"}], "extraObjects": ["kind: A"], "imagePullSecrets": [{"name": "a"}],
    "certificate.privateKey.algorithm": "RSA", "certificate.privateKey.rotationPolicy": "Never", "certificate.dnsNames": ["other"], "certificate.duration": "1h", "certificate.renewBefore": "1h",
    "serviceMonitor.interval": "1m", "serviceMonitor.scrapeTimeout": "1s", "podMonitor.interval": "1m", "podMonitor.scrapeTimeout": "1s", "prometheusRule.optional": ["ChatBridgeFixtureThree"], "prometheusRule.disabled": {"ChatBridgeFixtureOne": True},
    "prometheusRule.overrides": {"ChatBridgeFixtureOne": {"for": "1h"}}, "prometheusRule.additionalGroups": [], "strimzi.apiVersion": "kafka.strimzi.io/v2", "strimzi.user.authentication": "tls",
    "strimzi.user.acls": [{"operations": ["Read"]}], "helmTest.address": "10.0.0.1:9090", "helmTest.resources": {"limits": {"memory": "1Gi"}},
    "securityContext.capabilities.drop": ["ALL", "NET_RAW"],
    "serviceMonitor.relabelings": [], "serviceMonitor.metricRelabelings": [{"action": "drop"}], "podMonitor.relabelings": [{"action": "drop"}], "podMonitor.metricRelabelings": [],
}
# What must stand beside it for the other value to count.
BESIDE = {
    "secrets.adminToken.key": {"secrets": {"adminToken": {"existingSecret": "a"}}}, "secrets.allowUnsigned": {"config": {"apps": [{"sdk_app_id": 1400000000}, {"sdk_app_id": 5}]}},
    "persistence.enabled": {"persistence": {"acknowledgeDataLoss": True}}, "persistence.acknowledgeDataLoss": {"persistence": {"enabled": False}},
    "persistence.retentionPolicy.whenDeleted": {"persistence": {"acknowledgeDataLoss": True}}, "persistence.retentionPolicy.whenScaled": {"persistence": {"acknowledgeDataLoss": True}},
    "service.nodePort": {"service": {"type": "NodePort"}}, "tls.clientCa.existingSecret": {"tls": {"clientCa": {"existingConfigMap": ""}}}, "serviceAccount.name": {},
    "service.loadBalancerClass": {}, "strimzi.apiVersion": {"checkApis": False}, "strimzi.kinds.Group.CallbackAfterGroupFull": {"config": {"topics": {"names": None}}}, "serviceMonitor.enabled": {}, "podMonitor.enabled": {"networkPolicy": {"enabled": False}},
}
# What the cluster is asked about, so that nothing of it is seen without one: test_cluster.py.
ASKS_THE_CLUSTER = {"allowScaleIn"}


def another(name, value, schema):
    if name in ANOTHER:
        return ANOTHER[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, dict):
        return {"other": "other"}
    assert isinstance(value, str), f"{name}: say in ANOTHER what else it could be"
    return "other"


@pytest.mark.parametrize("path, value", [pytest.param(path, value, id=".".join(path)) for path, value in leaves(VALUES)])
def test_every_value_counts(chart, path, value):
    """Another value makes another chart, or makes a refusal of an acceptance. A value that does nothing is worse than none."""
    name = ".".join(path)
    if name in ASKS_THE_CLUSTER:
        assert name in (support.HERE / "test_cluster.py").read_text()
        return
    file = SEEN_IN.get(path[0], MINIMAL)
    if path[0] == "service" and ("loadBalancer" in name or "external" in name):
        file = "ci/loadbalancer-tls-values.yaml"
    beside = copy.deepcopy(BESIDE.get(name, {}))
    current = above(yaml.safe_load((CHART / file).read_text()), beside)
    for key in path:
        current = current.get(key) if isinstance(current, dict) else None
    base = value if current is None else current
    changed = another(name, base, SCHEMA)
    apis = [] if name == "checkApis" else support.APIS
    before = chart.render(file, values=beside or None, apis=apis)
    after = chart.render(file, values=above(copy.deepcopy(beside), nested(path, changed)), apis=apis)
    gates = {"checkApis", "secrets.allowUnsigned", "persistence.acknowledgeDataLoss"}
    if name in gates:
        assert (before.code == 0) != (after.code == 0), before.err + after.err
    else:
        assert before.code == 0, before.err
        assert after.code == 0, after.err
        assert before.out != after.out, f"{name} = {changed!r} changes nothing"


def strings(value):
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return {value} if isinstance(value, str) else set()
    return {text for inner in value for text in strings(inner)}


def references(value):
    """What an object names of others that its pods cannot start without: kind, and name."""
    keys = {"secretRef": "Secret", "secretKeyRef": "Secret", "configMapRef": "ConfigMap", "configMapKeyRef": "ConfigMap", "configMap": "ConfigMap", "secret": "Secret"}
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in keys and isinstance(inner, dict):
                yield keys[key], inner.get("name", inner.get("secretName"))
            elif key == "imagePullSecrets":
                yield from (("Secret", one["name"]) for one in inner)
            else:
                yield from references(inner)
    for inner in value if isinstance(value, list) else ():
        yield from references(inner)


@pytest.mark.parametrize("file", [support.relative(path) for path in support.VALUES_FILES])
def test_what_a_pod_needs_is_made_or_named_by_the_user(chart, file):
    made = {("Secret", one["spec"]["secretName"]) if one["kind"] == "Certificate" else (one["kind"], one["metadata"]["name"]) for one in chart.objects(file)}
    named = strings(yaml.safe_load((CHART / file).read_text()))
    found = {reference for _, _, spec in support.pods(chart.objects(file)) for reference in references(spec)}
    assert {kind for kind, _ in found} >= ({"ConfigMap"} if "allowUnsigned" in (CHART / file).read_text() else {"ConfigMap", "Secret"})
    assert not [(kind, name) for kind, name in found if (kind, name) not in made and name not in named]
