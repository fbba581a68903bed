"""The release under test: what Helm does to it, and what its pods say."""

import base64
import contextlib
import hashlib
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from bed import APP, ROOT, Kafka, Not, eventually, get
from cluster import HERE, NODE, Failed, Refused
from service import is_ready

CHART = Path(os.environ.get("CHART_DIR", ROOT / "helm/chat-bridge")).resolve()
NAME = "bridge-chat-bridge"
HTTP, ADMIN = 8080, 9090
OPERATOR = "token-of-the-operator"
VOLUMES = 4
WAIT = ["--wait", "--timeout", "120s"]


class Release:
    """`bridge`, in the cluster's namespace. `settings` are in force with the next upgrade."""

    def __init__(self, cluster, kafka, tokens):
        self.cluster, self.tokens = cluster, tokens
        self.settings = {"config.kafka.bootstrap_servers": f"127.0.0.1:{kafka.sasl}"}

    # What is there before it

    def prepare(self):
        namespace = {"name": self.cluster.namespace, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
        storage = {"name": "disk", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}
        self.cluster.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": namespace},
            {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": storage, "provisioner": "kubernetes.io/no-provisioner",
             "volumeBindingMode": "WaitForFirstConsumer"},
            *[self._volume(number) for number in range(VOLUMES)],
            self._secret("operator", token=OPERATOR), self._secret("kafka", password=Kafka.PASSWORD),
        )
        eventually("the namespace has its account", lambda: [one["metadata"]["name"] for one in self.cluster.get("serviceaccounts")] == ["default"], 60)

    def _volume(self, number):
        """A folder of this machine. Unlike a hostPath it gets the group of the pods."""
        folder = self.cluster.work / "volumes" / str(number)
        folder.mkdir(parents=True)
        here = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}]}
        spec = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOncePod"], "storageClassName": "disk", "persistentVolumeReclaimPolicy": "Retain",
                "local": {"path": str(folder)}, "nodeAffinity": {"required": {"nodeSelectorTerms": [here]}}}
        return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"volume-{number}"}, "spec": spec}

    def _secret(self, name, **data):
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": self.cluster.namespace}, "data": encoded}

    def sign_with(self, *tokens):
        """Gives the bridges these tokens, and Chat the first of them."""
        self.cluster.apply(self._secret("chat-tokens", tokens="".join(f"{token}\n" for token in tokens)))
        self.tokens.write_text(tokens[0] + "\n")

    # Helm

    def arguments(self):
        words = ["bridge", CHART, "--values", HERE / "values.yaml"]
        for key, value in self.settings.items():
            words += ["--set", f"{key}={value}"]
        return words

    def install(self, **how):
        self.cluster.helm("install", *self.arguments(), *WAIT, **how)

    def upgrade(self, *more, **settings):
        self.settings |= {key.replace("__", "."): value for key, value in settings.items()}
        self.cluster.helm("upgrade", *self.arguments(), *(more or WAIT))

    # Pods

    def pods(self):
        """The bridges' pods by number."""
        found = self.cluster.get("pods", labelSelector="app.kubernetes.io/component=bridge")
        return {int(pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"]): pod for pod in found}

    def pod(self, number):
        return self.pods()[number]

    def identities(self):
        """What tells a pod from its successor of the same name."""
        return {number: pod["metadata"]["uid"] for number, pod in self.pods().items()}

    def ready(self, *numbers):
        """Waits until these are the pods there are, and all are ready."""
        def are():
            self.cluster.check()
            pods = self.pods()
            said = {number: pod["status"].get("containerStatuses") for number, pod in pods.items() if not is_ready(pod)}
            return pods if sorted(pods) == sorted(numbers) and not said else Not(f"pods {sorted(pods)}, unready {said}")

        return eventually(f"pods {numbers} are ready", are, 120)

    def claims(self):
        """The volumes' claims and whether each has a volume."""
        return {one["metadata"]["name"]: one["status"]["phase"] for one in self.cluster.get("persistentvolumeclaims")}

    def address(self, number, port):
        return f"http://{self.pod(number)['status']['podIP']}:{port}"

    def container(self, number):
        return self.pod(number)["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")

    def signal(self, number, signal):
        """To all processes of a bridge's container, without anybody's word."""
        self.cluster.ctr("tasks", "kill", "--all", "--signal", signal, self.container(number))

    def restarts(self, number):
        return self.pod(number)["status"]["containerStatuses"][0]["restartCount"]

    def bridge(self, number, *words):
        """The program, in a bridge's container."""
        return self.cluster.kubectl("exec", f"{NAME}-{number}", "--", "chat-bridge", *words)

    def value(self, number, series):
        for line in get(f"{self.address(number, ADMIN)}/metrics").splitlines():
            if line.startswith(series + " "):
                return float(line.split()[-1])
        raise AssertionError(f"no {series}")

    def unpublished(self, number):
        return self.value(number, "chat_bridge_journal_unpublished_records")

    def fills(self, number, records=200):
        """Waits until a journal holds so many records that Kafka does not have."""
        eventually(f"the journal of {number} fills", lambda: self.unpublished(number) >= records or Not(self.unpublished(number)))

    def empties(self, *numbers):
        """Waits until Kafka has all that these journals hold."""
        for number in numbers:
            eventually(f"the journal of {number} is published", lambda number=number: self.unpublished(number) == 0 or Not(self.unpublished(number)))

    def drain(self, number, method):
        """A word of the operator to one instance."""
        request = urllib.request.Request(f"{self.address(number, ADMIN)}/drain", method=method, headers={"Authorization": f"Bearer {OPERATOR}"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)

    def status_of(self, number, token):
        """How an instance answers a callback that is signed with this token."""
        now = int(time.time())
        query = {"SdkAppid": APP, "CallbackCommand": "Group.CallbackAfterGroupFull", "RequestTime": now, "Sign": hashlib.sha256(f"{token}{now}".encode()).hexdigest()}
        request = urllib.request.Request(f"{self.address(number, HTTP)}/?{urllib.parse.urlencode(query)}", data=b'{"GroupId":"@TGS#1"}', method="POST")
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def evict(self, number):
        """Asks for a pod to go, as the emptying of a node does."""
        name, namespace = f"{NAME}-{number}", self.cluster.namespace
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": namespace}}
        with self.cluster.ask(f"/api/v1/namespaces/{namespace}/pods/{name}/eviction", body) as answer:
            assert answer.status == 201, answer.status

    def evicted(self, number):
        """Evicts a pod, or tells that the budget forbids it: what it tells of itself lags behind the pods."""
        try:
            self.evict(number)
        except Refused as error:
            if error.status == 429:
                return Not(error)
            raise
        return True


@contextlib.contextmanager
def refused(*said):
    """What is in the block fails, with these words."""
    try:
        yield
    except Failed as error:
        for words in said:
            assert words in str(error), f"no {words!r} in {error}"
        return
    raise AssertionError(f"it was not refused: {said}")
