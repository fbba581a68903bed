"""What a schema cannot say: that the objects fit together, and that the chart keeps what it promises."""

import json
import re
import tomllib

import pytest

import support
from support import CHART, MINIMAL, VALUES_FILES, containers, of_kind, pods, relative, the

FILES = [relative(path) for path in VALUES_FILES]
NAME = "bridge-chat-bridge"
SELECTOR = {"app.kubernetes.io/name": "chat-bridge", "app.kubernetes.io/instance": "bridge", "app.kubernetes.io/component": "bridge"}
VOLUMES_OF_RESTRICTED = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def matches(selector, labels):
    return all(labels.get(key) == value for key, value in selector.items())


def restricted(spec):
    """What Pod Security "restricted" has against a pod."""
    found = [key for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
    found += [f"volume {one['name']}" for one in spec.get("volumes", []) if not VOLUMES_OF_RESTRICTED & one.keys()]
    pod = spec.get("securityContext", {})
    if pod.get("sysctls"):
        found.append("sysctls")
    for one in containers(spec):
        own = one.get("securityContext", {})
        both = pod | own
        rules = {
            "privileged": not own.get("privileged"),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "runAsNonRoot": both.get("runAsNonRoot") is True,
            "runAsUser": both.get("runAsUser") != 0,
            "seccompProfile": both.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost"),
            "capabilities.drop": "ALL" in own.get("capabilities", {}).get("drop", []),
            "capabilities.add": set(own.get("capabilities", {}).get("add", [])) <= {"NET_BIND_SERVICE"},
            "procMount": own.get("procMount", "Default") == "Default",
            "hostPort": not any(port.get("hostPort") for port in one.get("ports", [])),
            "readOnlyRootFilesystem": own.get("readOnlyRootFilesystem") is True,
        }
        found += [f"{one['name']}: {rule}" for rule, kept in rules.items() if not kept]
    return found


@pytest.mark.parametrize("file", FILES)
def test_every_pod_is_restricted_and_has_no_token(chart, file):
    seen = 0
    objects = chart.objects(file)
    assert all(one["automountServiceAccountToken"] is False for one in of_kind(objects, "ServiceAccount"))
    for owner, _, spec in pods(objects):
        seen += 1
        # A pod of its own that is no hook would be installed, and stay.
        assert owner["kind"] != "Pod" or owner["metadata"]["annotations"]["helm.sh/hook"] == "test"
        who = f"{owner['kind']} {owner['metadata']['name']}"
        assert restricted(spec) == [], who
        assert spec["automountServiceAccountToken"] is False, who
        assert spec["enableServiceLinks"] is ("healthcheck" in str(spec) and "_SERVICE_HOST" in str(spec)), who
    assert seen >= 2


def test_the_check_of_pod_security_can_fail():
    good = {"securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "a", "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}}]}
    assert restricted(good) == []
    assert restricted(good | {"hostNetwork": True}) == ["hostNetwork"]
    assert restricted(good | {"securityContext": {}}) == ["a: runAsNonRoot", "a: seccompProfile"]
    assert restricted(good | {"initContainers": [{"name": "i"}]}) == ["i: allowPrivilegeEscalation", "i: capabilities.drop", "i: readOnlyRootFilesystem"]
    assert restricted(good | {"volumes": [{"name": "v", "hostPath": {}}]}) == ["volume v"]


@pytest.mark.parametrize("file", FILES)
def test_selectors_find_the_bridges_and_nothing_else(chart, file):
    objects = chart.objects(file)
    mine = the(objects, "StatefulSet")
    labels = mine["spec"]["template"]["metadata"]["labels"]
    assert mine["spec"]["selector"]["matchLabels"] == SELECTOR and matches(SELECTOR, labels)
    selectors = [one["spec"]["selector"] for one in of_kind(objects, "Service")]
    selectors += [one["spec"]["selector"]["matchLabels"] for kind in ("PodDisruptionBudget", "PodMonitor") for one in of_kind(objects, kind)]
    selectors += [one["labelSelector"]["matchLabels"] for one in mine["spec"]["template"]["spec"].get("topologySpreadConstraints", [])]
    assert len(selectors) >= 4
    for selector in selectors:
        assert selector == SELECTOR
        for owner, other, _ in pods(objects):
            assert matches(selector, other) == (owner is mine), owner["metadata"]["name"]
    for policy in of_kind(objects, "NetworkPolicy"):
        assert all(matches(policy["spec"]["podSelector"]["matchLabels"], other) for _, other, _ in pods(objects))


@pytest.mark.parametrize("file", FILES)
def test_references_lead_somewhere(chart, file):
    objects = chart.objects(file)
    names = {(one["kind"], one["metadata"]["name"]) for one in objects}
    services = {one["metadata"]["name"]: {port["name"]: port["port"] for port in one["spec"]["ports"]} for one in of_kind(objects, "Service")}
    bridge = the(objects, "StatefulSet")["spec"]
    assert services[bridge["serviceName"]] and the(objects, "Service", bridge["serviceName"])["spec"]["clusterIP"] == "None"
    ports = {port["name"] for one in bridge["template"]["spec"]["containers"] for port in one.get("ports", [])}
    for one in of_kind(objects, "Service"):
        assert {port["targetPort"] for port in one["spec"]["ports"]} <= ports
    for rule in [rule for one in of_kind(objects, "Ingress") for rule in one["spec"]["rules"]]:
        assert all(path["backend"]["service"]["port"]["name"] in services[path["backend"]["service"]["name"]] for path in rule["http"]["paths"])
    for rule in [rule for one in of_kind(objects, "HTTPRoute") for rule in one["spec"]["rules"]]:
        assert all(reference["port"] == services[reference["name"]]["http"] for reference in rule.get("backendRefs", []))
    for one in of_kind(objects, "HorizontalPodAutoscaler"):
        assert (one["spec"]["scaleTargetRef"]["kind"], one["spec"]["scaleTargetRef"]["name"]) in names
        assert "replicas" not in bridge
    for owner, _, spec in pods(objects):
        claims = {one["metadata"]["name"] for one in owner["spec"].get("volumeClaimTemplates", [])}
        volumes = {one["name"] for one in spec.get("volumes", [])} | claims
        assert len(volumes) == len(spec.get("volumes", [])) + len(claims), "a volume's name stands twice"
        assert spec["serviceAccountName"] == "default" or ("ServiceAccount", spec["serviceAccountName"]) in names
        for one in containers(spec):
            assert {mount["name"] for mount in one.get("volumeMounts", [])} <= volumes
            assert len({mount["mountPath"] for mount in one.get("volumeMounts", [])}) == len(one.get("volumeMounts", []))
            variables = [variable["name"] for variable in one.get("env", [])]
            assert len(variables) == len(set(variables)), variables
            assert not one["image"].endswith(":latest") and (":" in one["image"] or "@" in one["image"])
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert probe not in one or one[probe]["httpGet"]["port"] in ports


@pytest.mark.parametrize("file", FILES)
def test_names_and_labels_are_of_their_forms(chart, file):
    objects = chart.objects(file)
    keys = [(one["apiVersion"], one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in objects]
    assert len(keys) == len(set(keys)), "an object stands twice"
    for one in objects:
        name = one["metadata"]["name"]
        limit = 253 if one["kind"] in ("KafkaTopic", "KafkaUser", "ConfigMap") else 63
        assert len(name) <= limit and re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", name), name
        if name.endswith(("-more", "-text")):
            continue  # The extra objects of ci/extras-values.yaml are the user's.
        labels = one["metadata"]["labels"]
        assert {"app.kubernetes.io/" + key for key in ("name", "instance", "component", "part-of", "version", "managed-by")} | {"helm.sh/chart"} <= labels.keys()
        assert all(re.fullmatch(r"(|[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)", value) for value in labels.values())


def test_long_names_stay_within_their_limits(chart):
    objects = chart.objects("ci/drain-job-values.yaml", values={"fullnameOverride": "a" * 52 + "-and-more", "dashboards": {"enabled": True}, "drainJob": {"instance": 9999}})
    assert all(len(one["metadata"]["name"]) <= 63 for one in objects)
    # A pod's label of its revision is the set's name, a hyphen and ten characters.
    assert len(the(objects, "StatefulSet")["metadata"]["name"]) + 11 <= 63


def test_what_kubernetes_lets_nobody_change_stays(chart):
    """A change here makes every upgrade fail: it takes a new major version, and a word in the README."""
    made = {}
    for file in (MINIMAL, "ci/extras-values.yaml", "ci/hpa-values.yaml"):
        spec = the(chart.objects(file), "StatefulSet")["spec"]
        made[file] = {key: spec[key] for key in ("serviceName", "podManagementPolicy", "selector", "volumeClaimTemplates")}
    golden = support.HERE / "golden" / "immutable.json"
    assert json.loads(golden.read_text()) == made, f"what {golden.name} should be:\n{json.dumps(made, indent=2)}"


def test_a_new_version_of_the_chart_leaves_the_claims_alone(chart):
    before = the(chart.objects(MINIMAL), "StatefulSet")["spec"]
    file = chart.folder / "Chart.yaml"
    text = file.read_text()
    try:
        file.write_text(re.sub(r'(?m)^(version|appVersion): .*$', r'\1: "9.9.9"', text))
        after = the(support.Chart(chart.folder).objects(MINIMAL), "StatefulSet")["spec"]
    finally:
        file.write_text(text)
    assert before["volumeClaimTemplates"] == after["volumeClaimTemplates"] and before["selector"] == after["selector"]
    assert after["template"]["spec"]["containers"][0]["image"] == "chat-bridge:9.9.9"


def test_what_the_bridge_needs_of_its_pod(chart):
    spec = the(chart.objects(MINIMAL), "StatefulSet")["spec"]
    assert (spec["replicas"], spec["podManagementPolicy"], spec["minReadySeconds"]) == (2, "Parallel", 5)
    assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "data" and claim["spec"]["accessModes"] == ["ReadWriteOncePod"] and claim["spec"]["resources"]["requests"]["storage"] == "10Gi"
    pod = spec["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 45
    (bridge,) = pod["containers"]
    probes = {kind: (bridge[kind]["httpGet"]["path"], bridge[kind]["httpGet"]["port"]) for kind in ("startupProbe", "readinessProbe", "livenessProbe")}
    # A drained instance stays unready over a restart, so only readiness may ask /readyz.
    assert probes == {"startupProbe": ("/livez", "admin"), "readinessProbe": ("/readyz", "admin"), "livenessProbe": ("/livez", "admin")}
    # A bridge that hangs would otherwise be waited for as long as one that drains.
    assert bridge["livenessProbe"]["terminationGracePeriodSeconds"] == 10
    assert {"name": "data", "mountPath": "/var/lib/chat-bridge"} in bridge["volumeMounts"]
    assert not any("subPath" in mount for mount in bridge["volumeMounts"]), "a file under subPath never changes"
    ordinal = {"apiVersion": "v1", "fieldPath": "metadata.labels['apps.kubernetes.io/pod-index']"}
    assert {"name": "CHAT_BRIDGE_KAFKA__INSTANCE", "valueFrom": {"fieldRef": ordinal}} in bridge["env"]
    assert {(mount["name"], mount.get("readOnly", False)) for mount in bridge["volumeMounts"]} == {("data", False), ("config", True)}


def test_a_change_of_the_configuration_rolls_the_pods(chart):
    checksum = lambda **how: the(chart.objects(MINIMAL, **how), "StatefulSet")["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
    assert checksum() == checksum(values={"podLabels": {"a": "b"}})
    assert checksum() != checksum(values={"config": {"log": {"level": "debug"}}})
    assert checksum() != checksum(values={"secrets": {"adminToken": {"existingSecret": "a"}}})


def test_a_pod_that_is_renewed_by_hand_has_no_settings_of_a_roll(chart):
    strategy = lambda **how: the(chart.objects(MINIMAL, **how), "StatefulSet")["spec"]["updateStrategy"]
    assert strategy() == {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}
    # The API server refuses rollingUpdate beside it.
    assert strategy(values={"updateStrategy": {"type": "OnDelete"}}) == {"type": "OnDelete"}


def test_a_budget_only_where_there_is_more_than_one(chart):
    budget = the(chart.objects(MINIMAL), "PodDisruptionBudget")["spec"]
    assert (budget["maxUnavailable"], budget["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")
    assert not of_kind(chart.objects("ci/single-values.yaml"), "PodDisruptionBudget")
    assert of_kind(chart.objects("ci/hpa-values.yaml", values={"replicas": 1}), "PodDisruptionBudget")


def test_it_scales_out_and_never_in(chart):
    spec = the(chart.objects("ci/hpa-values.yaml"), "HorizontalPodAutoscaler")["spec"]
    assert spec["behavior"]["scaleDown"] == {"selectPolicy": "Disabled"}
    assert (spec["minReplicas"], spec["maxReplicas"], len(spec["metrics"])) == (2, 8, 2)
    assert spec["metrics"][0]["containerResource"]["container"] == "bridge"


def test_what_the_tests_say_can_be_asked_for(chart):
    """`helm test --logs` asks for the logs once all have ended, without the name of a container."""
    tests = of_kind(chart.objects(MINIMAL), "Pod")
    by_weight = sorted(tests, key=lambda one: int(one["metadata"]["annotations"]["helm.sh/hook-weight"]))
    assert [[*one["spec"].get("initContainers", []), *one["spec"]["containers"]][0]["args"] for one in by_weight] == [["check"], ["topics", "plan"], ["healthcheck"]]
    for one in tests:
        assert (one["metadata"]["annotations"]["helm.sh/hook-delete-policy"], len(containers(one["spec"]))) == ("before-hook-creation", 1)
    without = chart.objects(MINIMAL, values={"helmTest": {"kafka": False}})
    assert [one["metadata"]["name"] for one in of_kind(without, "Pod")] == [f"{NAME}-test-configuration", f"{NAME}-test-connection"]


def test_the_operators_side_stays_inside(chart):
    ports = lambda file, **how: [port["name"] for port in the(chart.objects(file, **how), "Service", NAME)["spec"]["ports"]]
    assert ports(MINIMAL) == ["http", "admin"]
    for kind in ("LoadBalancer", "NodePort"):
        assert ports(MINIMAL, values={"service": {"type": kind}}) == ["http"]
    tests = [one["metadata"]["name"] for one in of_kind(chart.objects("ci/loadbalancer-tls-values.yaml"), "Pod")]
    assert tests == [f"{NAME}-test-{name}" for name in ("configuration", "kafka")], "no address to ask"
    for file in ("ci/ingress-values.yaml", "ci/gateway-values.yaml"):
        assert "admin" not in json.dumps([one["spec"] for one in chart.objects(file) if one["kind"] in ("Ingress", "HTTPRoute")])


def test_the_headless_service_leads_to_unready_instances_too(chart):
    spec = the(chart.objects(MINIMAL), "Service", f"{NAME}-headless")["spec"]
    assert spec["clusterIP"] == "None" and spec["publishNotReadyAddresses"] is True


def test_each_instance_is_scraped_once(chart):
    objects = chart.objects("ci/monitoring-values.yaml")
    monitor = the(objects, "ServiceMonitor")["spec"]
    found = [one for one in of_kind(objects, "Service") if matches(monitor["selector"]["matchLabels"], one["metadata"]["labels"])]
    assert [one["metadata"]["name"] for one in found] == [f"{NAME}-headless"]
    assert [(one["port"], one["path"]) for one in monitor["endpoints"]] == [("admin", "/metrics")]
    assert found[0]["metadata"]["labels"][monitor["jobLabel"]] == "chat-bridge"
    pod = the(chart.objects("ci/podmonitor-values.yaml", values={"nameOverride": "other"}), "PodMonitor")["spec"]
    labels = the(chart.objects("ci/podmonitor-values.yaml", values={"nameOverride": "other"}), "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert labels[pod["jobLabel"]] == "chat-bridge" and matches(pod["selector"]["matchLabels"], labels)


def rules_of(objects):
    return {rule["alert"]: rule for group in the(objects, "PrometheusRule")["spec"]["groups"] for rule in group["rules"] if "alert" in rule}


def test_rules_and_dashboards_are_those_of_the_files(chart):
    values = {"prometheusRule": {"ruleLabels": None, "additionalGroups": []}}
    objects = chart.objects("ci/monitoring-values.yaml", values=values)
    groups = [group for file in sorted(chart.folder.glob("rules/*.yaml")) for group in support.load(file.read_text())[0]["groups"]]
    assert the(objects, "PrometheusRule")["spec"]["groups"] == groups
    made = {name: text for one in of_kind(objects, "ConfigMap") if one["metadata"]["labels"].get("grafana_dashboard") for name, text in one["data"].items()}
    files = {file.name: file.read_text() for file in chart.folder.glob("dashboards/*.json")}
    assert {name: json.loads(text) for name, text in made.items()} == {name: json.loads(text) for name, text in files.items()}
    assert made and all(len(text.encode()) < 1_000_000 for text in made.values()), "a ConfigMap holds 1 MiB"


def test_alerts_can_be_left_out_and_changed(chart):
    change = {"disabled": {"ChatBridgeFixtureTwo": True}, "overrides": {"ChatBridgeFixtureOne": {"for": "30m", "labels": {"severity": "info"}}}, "runbookBaseUrl": "https://wiki/r/", "ruleAnnotations": {"dashboard_url": "d"}}
    rules = rules_of(chart.objects("ci/monitoring-values.yaml", values={"prometheusRule": change}))
    assert "ChatBridgeFixtureTwo" not in rules
    one = rules["ChatBridgeFixtureOne"]
    assert "ChatBridgeFixtureThree" not in rules
    optional = rules_of(chart.objects("ci/monitoring-values.yaml", values={"prometheusRule": {"optional": ["ChatBridgeFixtureThree"]}}))
    assert optional.keys() == rules_of(chart.objects("ci/monitoring-values.yaml")).keys() | {"ChatBridgeFixtureThree"}
    assert (one["for"], one["labels"]) == ("30m", {"severity": "info", "team": "im"})
    assert one["annotations"] == {"summary": "{{ $labels.job }} has {{ $value | humanize }}", "runbook_url": "https://wiki/r/ChatBridgeFixtureOne.md", "dashboard_url": "d"}
    names = [rule.get("record") for group in the(chart.objects("ci/monitoring-values.yaml"), "PrometheusRule")["spec"]["groups"] for rule in group["rules"]]
    assert "job:fixture:rate5m" in names and "job:chat_bridge_callbacks:rate5m" in names


def test_the_network_lets_through_what_is_needed(chart):
    policy = the(chart.objects("ci/network-policy-values.yaml"), "NetworkPolicy")["spec"]
    assert sorted(policy["policyTypes"]) == ["Egress", "Ingress"]
    inwards = {port["port"]: rule.get("from") for rule in policy["ingress"] for port in rule["ports"]}
    assert set(inwards) == {"http", "admin"}
    assert inwards["admin"] == [{"podSelector": {"matchLabels": {key: SELECTOR[key] for key in list(SELECTOR)[:2]}}}], "nobody but the release itself"
    outwards = {port["port"] for rule in policy["egress"] for port in rule["ports"]}
    brokers = tomllib.loads(support.config(chart.objects("ci/network-policy-values.yaml")))["kafka"]["bootstrap_servers"]
    assert {int(broker.rsplit(":", 1)[1]) for broker in brokers.split(",")} == {9094, 9095}
    assert {53, 9094, 9095, 9096, "admin", 3128} == outwards
    traced = the(chart.objects("ci/monitoring-values.yaml"), "NetworkPolicy")["spec"]
    assert 4317 in {port["port"] for rule in traced["egress"] for port in rule["ports"]}
    assert "from" not in traced["ingress"][0], "callbacks come from anywhere"


@pytest.mark.parametrize("values, image", [
    ({}, "chat-bridge:0.1.0"),
    ({"tag": "1.2.3"}, "chat-bridge:1.2.3"),
    ({"registry": "r.example.com/", "repository": "a/b"}, "r.example.com/a/b:0.1.0"),
    ({"digest": f"sha256:{'a' * 64}"}, f"chat-bridge@sha256:{'a' * 64}"),
    ({"tag": f"sha256:{'a' * 64}"}, f"chat-bridge@sha256:{'a' * 64}"),
    ({"tag": f"1.2.3@sha256:{'a' * 64}"}, f"chat-bridge:1.2.3@sha256:{'a' * 64}"),
    ({"tag": "1.2.3", "digest": f"sha256:{'a' * 64}"}, f"chat-bridge:1.2.3@sha256:{'a' * 64}"),
])
def test_forms_of_the_image(chart, values, image):
    for _, _, spec in pods(chart.objects("ci/drain-job-values.yaml", values={"image": values})):
        assert {one["image"] for one in containers(spec)} == {image}
    mirrored = {"image": values, "global": {"imageRegistry": "mirror"}}
    (first, *_) = pods(chart.objects(MINIMAL, values=mirrored))
    assert first[2]["containers"][0]["image"].startswith("mirror/")


def test_variables_are_merged_by_name(chart):
    env = the(chart.objects("ci/extras-values.yaml"), "StatefulSet")["spec"]["template"]["spec"]["containers"][0]["env"]
    assert [one["value"] for one in env if one["name"] == "TZ"] == ["Asia/Shanghai"]
    env = the(chart.objects("ci/pod-ip-values.yaml", values={"extraEnv": [{"name": "POD_IP", "value": "10.9.9.9"}]}), "StatefulSet")["spec"]["template"]["spec"]["containers"][0]["env"]
    names = [one["name"] for one in env]
    assert [one for one in env if one["name"] == "POD_IP"] == [{"name": "POD_IP", "value": "10.9.9.9"}]
    assert names.index("POD_IP") < names.index("CHAT_BRIDGE_HTTP__LISTEN"), "a variable is expanded from those before it"


def test_binding_to_the_pods_own_address(chart):
    def env(**values):
        return {one["name"]: one for one in the(chart.objects("ci/pod-ip-values.yaml", values=values), "StatefulSet")["spec"]["template"]["spec"]["containers"][0]["env"]}

    four, six = env(), env(podIPFamily="IPv6")
    assert four["POD_IP"]["valueFrom"]["fieldRef"]["fieldPath"] == "status.podIP"
    assert (four["CHAT_BRIDGE_HTTP__LISTEN"]["value"], four["CHAT_BRIDGE_ADMIN__LISTEN"]["value"]) == ("$(POD_IP):8080", "$(POD_IP):9090")
    assert six["CHAT_BRIDGE_ADMIN__LISTEN"]["value"] == "[$(POD_IP)]:9090"
    assert "POD_IP" not in env(bindToPodIP=False)


def test_the_drain_job_takes_the_right_volume(chart):
    objects = chart.objects("ci/drain-job-values.yaml")
    job = the(objects, "Job")
    spec = job["spec"]["template"]["spec"]
    (claim,) = [one["persistentVolumeClaim"]["claimName"] for one in spec["volumes"] if "persistentVolumeClaim" in one]
    (template,) = the(objects, "StatefulSet")["spec"]["volumeClaimTemplates"]
    assert claim == f"{template['metadata']['name']}-{NAME}-2"
    (drain,) = spec["containers"]
    assert drain["args"] == ["journal", "drain", "--timeout", "60s"]
    assert {"name": "CHAT_BRIDGE_KAFKA__INSTANCE", "value": "2"} in drain["env"]
    codes = job["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert 69 not in codes["values"] and {65, 74, 78} <= set(codes["values"]) and codes["containerName"] == drain["name"]
    assert not of_kind(chart.objects(MINIMAL), "Job")


def test_a_drain_job_that_differs_is_another_one(chart):
    name = lambda **values: the(chart.objects("ci/drain-job-values.yaml", values=values), "Job")["metadata"]["name"]
    assert name() == name(replicas=1) == name(service={"port": 81})
    assert len({name(), name(image={"tag": "2"}), name(config={"log": {"level": "debug"}}), name(drainJob={"instance": 3})}) == 4


def test_the_rights_of_the_user_are_just_those_that_are_needed(chart):
    def acls(file, **how):
        objects = chart.objects(file, **how)
        topics = {one["spec"]["topicName"] for one in of_kind(objects, "KafkaTopic")}
        found = {(one["resource"]["type"], one["resource"]["name"]): set(one["operations"]) for one in the(objects, "KafkaUser")["spec"]["authorization"]["acls"]}
        assert {name for kind, name in found if kind == "topic"} == topics
        return found

    plain = acls("ci/strimzi-values.yaml")
    assert set(map(frozenset, plain.values())) == {frozenset({"Describe", "DescribeConfigs", "Write"})} and {kind for kind, _ in plain} == {"topic"}
    exactly = acls("ci/exactly-once-values.yaml", values={"config": {"topics": {"create": False}}})
    assert exactly["topic", "eu.positions"] == {"Describe", "DescribeConfigs", "Write", "Read"}
    assert exactly["transactionalId", "eu.positions-"] == {"Describe", "Write"}
    assert all("Read" not in operations for (_, name), operations in exactly.items() if name != "eu.positions")
    assert all("Create" in operations for (kind, _), operations in acls("ci/exactly-once-values.yaml").items() if kind == "topic")


def test_topics_outlive_the_release(chart):
    for one in of_kind(chart.objects("ci/strimzi-values.yaml"), "KafkaTopic"):
        assert one["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
        assert (one["metadata"]["labels"]["strimzi.io/cluster"], one["metadata"]["namespace"]) == ("events", "kafka")


def test_the_positions_topic_is_compacted(chart):
    topic = {one["spec"]["topicName"]: one["spec"] for one in of_kind(chart.objects("ci/exactly-once-values.yaml"), "KafkaTopic")}["eu.positions"]
    assert (topic["partitions"], topic["config"]["cleanup.policy"]) == (48, "compact")


def test_secrets_reach_the_bridge_as_files(chart):
    objects = chart.objects("ci/full-config-values.yaml")
    config = tomllib.loads(support.config(objects))
    (volume,) = [one for one in the(objects, "StatefulSet")["spec"]["template"]["spec"]["volumes"] if one["name"] == "config"]
    files = {f"/etc/chat-bridge/{item['path']}" for source in volume["projected"]["sources"] for part in source.values() for item in part["items"]}
    named = [app["tokens_file"] for app in config["apps"]] + [config["admin"]["token_file"], config["kafka"]["secret_files"]["sasl.password"], config["kafka"]["properties"]["ssl.ca.location"]]
    assert files == {*named, "/etc/chat-bridge/config.toml"}
    assert volume["projected"]["defaultMode"] == 0o440
    tls = chart.objects("ci/loadbalancer-tls-values.yaml")
    assert tomllib.loads(support.config(tls))["http"]["tls"] == {"certificate": "/etc/chat-bridge/tls/tls.crt", "private_key": "/etc/chat-bridge/tls/tls.key", "client_ca": "/etc/chat-bridge/tls/client-ca.crt"}
    issued = chart.objects("ci/certificate-values.yaml")
    certificate = the(issued, "Certificate")["spec"]
    assert "server auth" in certificate["usages"] and certificate["secretName"] in json.dumps(the(issued, "StatefulSet")["spec"]["template"]["spec"]["volumes"])
    assert "client_ca" not in support.config(issued)


def test_extra_objects_are_rendered(chart):
    names = [one["metadata"]["name"] for one in of_kind(chart.objects("ci/extras-values.yaml"), "ConfigMap")]
    assert f"{NAME}-more" in names and "bridge-text" in names


def test_nothing_of_a_secret_is_in_a_value_that_ships():
    for file in [*CHART.glob("ci/*"), *CHART.glob("examples/*"), CHART / "values.yaml"]:
        assert not re.search(r"(?i)^\s*(password|token|secret)\s*:\s*[\"']?[\w-]{6,}", file.read_text(), re.M), file
