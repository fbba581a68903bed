"""What the chart asks the cluster (`lookup`), and NOTES.txt: with an API server that knows just enough for Helm."""

import base64
import http.server
import json
import threading

import pytest
import yaml

import support
from support import HELMS, MINIMAL, load, the

NAME = "bridge-chat-bridge"
GROUPS = {
    "v1": {"Secret": "secrets", "Service": "services", "ConfigMap": "configmaps", "ServiceAccount": "serviceaccounts", "Pod": "pods"},
    "apps/v1": {"StatefulSet": "statefulsets"},
    "batch/v1": {"Job": "jobs"},
    "autoscaling/v2": {"HorizontalPodAutoscaler": "horizontalpodautoscalers"},
    "policy/v1": {"PodDisruptionBudget": "poddisruptionbudgets"},
    "networking.k8s.io/v1": {"NetworkPolicy": "networkpolicies", "Ingress": "ingresses"},
    "monitoring.coreos.com/v1": {"ServiceMonitor": "servicemonitors", "PrometheusRule": "prometheusrules"},
}


def kinds(version):
    verbs = ["get", "list", "create"]
    resources = [{"name": plural, "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": verbs} for kind, plural in GROUPS[version].items()]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}


class Cluster:
    """What lives in the cluster, by path; reached at its own kubeconfig."""

    def __init__(self, folder):
        self.objects = {}
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                found = outer.answer(self.path.split("?")[0])
                body = json.dumps(found or {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}).encode()
                self.send_response(200 if found else 404)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.kubeconfig = folder / "kubeconfig"
        named = lambda kind, value: [{"name": "it", kind: value}]
        self.kubeconfig.write_text(yaml.safe_dump({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": named("cluster", {"server": f"http://127.0.0.1:{self.server.server_port}"}), "users": named("user", {"token": "x"}), "contexts": named("context", {"cluster": "it", "user": "it"}),
        }))

    def answer(self, path):
        version = lambda group: {"groupVersion": group, "version": group.split("/")[1]}
        groups = [{"name": group.split("/")[0], "versions": [version(group)], "preferredVersion": version(group)} for group in GROUPS if "/" in group]
        fixed = {
            "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups},
            "/api/v1": kinds("v1"),
        } | {f"/apis/{group}": kinds(group) for group in GROUPS if "/" in group}
        return fixed.get(path) or self.objects.get(path)

    def runs(self, replicas, start=None):
        spec = {"replicas": replicas} | ({"ordinals": {"start": start}} if start else {})
        # Helm takes over nothing that is not its own.
        owner = {"labels": {"app.kubernetes.io/managed-by": "Helm"}, "annotations": {"meta.helm.sh/release-name": "bridge", "meta.helm.sh/release-namespace": "chat"}}
        metadata = {"name": NAME, "namespace": "chat"} | owner
        self.objects[f"/apis/apps/v1/namespaces/chat/statefulsets/{NAME}"] = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata, "spec": spec}

    def has_pods(self, *names):
        pods = [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "chat"}} for name in names]
        self.objects["/api/v1/namespaces/chat/pods"] = {"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": pods}

    def holds(self, secret, **data):
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
        self.objects[f"/api/v1/namespaces/chat/secrets/{secret}"] = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret, "namespace": "chat"}, "data": encoded}


@pytest.fixture
def cluster(tmp_path):
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.server.shutdown()
    cluster.server.server_close()


def template(chart, cluster, helm, file, *more):
    return chart.helm(helm, "template", "bridge", chart.folder, "--namespace", "chat", "--dry-run=server", "--disable-openapi-validation", "--values", chart.folder / file, *more, environment={"KUBECONFIG": str(cluster.kubeconfig)})


@pytest.mark.parametrize("helm", HELMS)
def test_fewer_instances_than_run_are_refused(chart, cluster, helm):
    cluster.runs(3)
    done = template(chart, cluster, helm, MINIMAL)
    assert done.code != 0 and "replicas: 2 is less than the 3 that run" in done.err
    for right in ("replicas=3", "replicas=4", "allowScaleIn=true"):
        done = template(chart, cluster, helm, MINIMAL, "--set", right)
        assert done.code == 0, done.err
    cluster.runs(2)
    assert template(chart, cluster, helm, MINIMAL).code == 0


SCALING = ("--set", "hpa.enabled=true", "--set", "resources.requests.cpu=1")


@pytest.mark.parametrize("helm", HELMS)
def test_the_autoscalers_number_is_kept(chart, cluster, helm):
    def replicas(*more):
        done = template(chart, cluster, helm, MINIMAL, *SCALING, *more)
        assert done.code == 0, done.err
        return the(done.objects, "StatefulSet")["spec"].get("replicas")

    assert replicas() is None, "nothing runs yet"
    # Where it is switched on, too: without a number the API server would set 1.
    cluster.runs(5)
    assert replicas() == 5
    cluster.runs(1)
    assert replicas() == 2, "the fewest"
    cluster.runs(5)
    done = template(chart, cluster, helm, MINIMAL, *SCALING, "--set", "hpa.maxReplicas=4")
    assert done.code != 0 and "hpa.maxReplicas: 4 is less than the 5 that run" in done.err
    assert replicas("--set", "hpa.maxReplicas=4,allowScaleIn=true") == 4


@pytest.mark.parametrize("helm", HELMS)
def test_pods_whose_statefulset_was_deleted_still_count(chart, cluster, helm):
    cluster.has_pods(f"{NAME}-0", f"{NAME}-2", f"{NAME}-drain-7", "other-9")
    done = template(chart, cluster, helm, MINIMAL)
    assert done.code != 0 and "replicas: 2 is less than the 3 that run" in done.err
    done = template(chart, cluster, helm, MINIMAL, *SCALING)
    assert done.code == 0 and the(done.objects, "StatefulSet")["spec"]["replicas"] == 3, done.err


@pytest.mark.parametrize("helm", HELMS)
def test_an_instance_that_the_autoscaler_has_not_made_can_be_drained(chart, cluster, helm):
    cluster.runs(3)
    assert template(chart, cluster, helm, MINIMAL, *SCALING, "--set", "drainJob.instance=3").code == 0
    done = template(chart, cluster, helm, MINIMAL, *SCALING, "--set", "drainJob.instance=2")
    assert done.code != 0 and "drainJob.instance: 2 is one of the instances that run (0 to 2)" in done.err


@pytest.mark.parametrize("helm", HELMS)
def test_other_numbers_than_those_that_run_are_refused(chart, cluster, helm):
    cluster.runs(2)
    done = template(chart, cluster, helm, MINIMAL, "--set", "ordinalsStart=10")
    assert done.code != 0 and "ordinalsStart: differs from that of the instances that run" in done.err
    assert template(chart, cluster, helm, MINIMAL, "--set", "ordinalsStart=10,allowScaleIn=true").code == 0
    cluster.runs(2, start=10)
    assert template(chart, cluster, helm, MINIMAL, "--set", "ordinalsStart=10").code == 0


@pytest.mark.parametrize("helm", HELMS)
def test_new_contents_of_a_secret_roll_the_pods_where_that_is_asked_for(chart, cluster, helm):
    def annotations(*more):
        done = template(chart, cluster, helm, MINIMAL, *more)
        return the(done.objects, "StatefulSet")["spec"]["template"]["metadata"]["annotations"]

    roll = ("--set", "secrets.rollOnChange=true")
    cluster.holds("chat-tokens", tokens="one")
    before, without = annotations(*roll), annotations()
    cluster.holds("chat-tokens", tokens="two")
    assert annotations(*roll)["checksum/secrets"] != before["checksum/secrets"]
    assert annotations() == without and "checksum/secrets" not in without


def notes(chart, cluster, helm, file, *more):
    apis = ["--set", "checkApis=false"]
    done = chart.helm(helm, "install", "bridge", chart.folder, "--namespace", "chat", "--dry-run=client", "--disable-openapi-validation", "--values", chart.folder / file, *apis, *more, environment={"KUBECONFIG": str(cluster.kubeconfig)})
    assert done.code == 0, done.err
    return done.out.split("NOTES:\n", 1)[1]


WARNINGS = [
    ("ci/single-values.yaml", [], "replicas is 1"),
    ("ci/single-values.yaml", [], "secrets.allowUnsigned"),
    ("ci/ephemeral-values.yaml", [], "persistence is off"),
    (MINIMAL, ["persistence.acknowledgeDataLoss=true", "persistence.retentionPolicy.whenScaled=Delete"], "persistence.retentionPolicy.whenScaled is Delete"),
    (MINIMAL, ["persistence.accessMode=ReadWriteOnce"], "persistence.accessMode is ReadWriteOnce"),
    (MINIMAL, [], "secrets.adminToken is not set"),
    (MINIMAL, [], "image.registry is not set: nodes look for chat-bridge:0.1.0"),
    (MINIMAL, [], "nothing scrapes the metrics"),
    (MINIMAL, ["ingress.enabled=true", "ingress.hosts[0].host=a"], "the Ingress has no TLS"),
    (MINIMAL, ["service.type=LoadBalancer"], "the Service is a LoadBalancer without TLS"),
    (MINIMAL, ["service.type=LoadBalancer", "config.apps[0].sdk_app_id=1400000000", "config.apps[0].sources={203.0.113.0/24}"], "app 1400000000 has sources, and service.externalTrafficPolicy is not Local"),
    (MINIMAL, ["hpa.enabled=true", "resources.requests.cpu=1"], "hpa scales out and never in"),
    (MINIMAL, ["prometheusRule.enabled=true", "fullnameOverride=im"], "the alerts ChatBridgeInstancesNotReady and ChatBridgeVolumeWithoutPod look for names with chat-bridge in them, which im has not"),
    (MINIMAL, ["config.kafka.delivery=exactly-once"], "exactly-once: no other bridge may use chat-bridge.positions with the numbers 0 to 1"),
]


@pytest.mark.parametrize("file, sets, warning", WARNINGS)
def test_the_notes_warn(chart, cluster, file, sets, warning):
    more = [word for one in sets for word in ("--set", one)]
    assert f"WARNING: {warning}" in notes(chart, cluster, "helm4", file, *more)


@pytest.mark.parametrize("helm", HELMS)
def test_the_notes_of_a_good_installation_warn_of_nothing(chart, cluster, helm):
    text = notes(chart, cluster, helm, "examples/production.yaml")
    assert "WARNING" not in text
    for part in ("https://chat.example.com/", "helm test bridge", "A roll renews one instance after the other", "kubectl --namespace chat get pvc"):
        assert part in text
    assert "A roll" not in notes(chart, cluster, helm, "ci/single-values.yaml")


def test_the_objects_of_the_notes_are_those_that_are_made(chart, cluster):
    text = notes(chart, cluster, "helm4", MINIMAL)
    objects = load(template(chart, cluster, "helm4", MINIMAL).out)
    assert f"exec {the(objects, 'StatefulSet')['metadata']['name']}-0 -- chat-bridge journal status" in text
    service = the(objects, "Service", NAME)
    assert f"http://{NAME}.chat:{service['spec']['ports'][0]['port']}/" in text
    assert support.CHART.name == "chat-bridge"
