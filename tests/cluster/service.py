"""What kube-proxy does, for a node without it: it listens on the addresses of the Services and leads each connection to one pod that is ready.

As there, a connection stays with its pod for as long as it lives, nothing is tried a second time, and a pod gets no new connection once it is unready or about to go.
"""

import asyncio
import contextlib
import itertools
import json
import threading

from bed import eventually
from cluster import Refused, conditions

# The addresses of the loopback device have room for nothing else that would answer here.
BACKLOG = 256


class Watch:
    """All objects of one kind in the namespace, as the API server tells them, kept by a thread."""

    def __init__(self, cluster, kind, changed):
        self.cluster, self.changed = cluster, changed
        self.path = f"/api/v1/namespaces/{cluster.namespace}/{kind}"
        self.objects = {}
        self.ended = False
        threading.Thread(target=self._follow, name=f"watch-{kind}", daemon=True).start()

    def _follow(self):
        while not self.ended:
            # A watch ends by itself now and then, and at the end with the API server.
            with contextlib.suppress(OSError, ValueError, Refused):
                with self.cluster.ask(self.path) as answer:
                    listed = json.load(answer)
                self.objects = {one["metadata"]["name"]: one for one in listed["items"]}
                self.changed()
                with self.cluster.ask(self.path, watch=1, timeoutSeconds=50, resourceVersion=listed["metadata"]["resourceVersion"]) as events:
                    for line in events:
                        self._apply(json.loads(line))

    def _apply(self, event):
        one = event["object"]
        if event["type"] == "ERROR":
            raise ValueError(one)
        changed = dict(self.objects)
        if event["type"] == "DELETED":
            changed.pop(one["metadata"]["name"], None)
        else:
            changed[one["metadata"]["name"]] = one
        self.objects = changed
        self.changed()


def is_ready(pod):
    """Whether a Service leads to it."""
    return conditions(pod).get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


def endpoint(pod, target):
    """Where a Service's port leads to in a pod; None if nowhere."""
    for container in pod["spec"]["containers"]:
        for port in container.get("ports", []):
            if target in (port.get("name"), port["containerPort"]):
                return pod["status"]["podIP"], port["containerPort"]
    return None


class Services:
    """Listens for all Services of the namespace that have an address."""

    def __init__(self, cluster):
        self.listeners = {}
        self.turn = itertools.count()
        self.loop = asyncio.new_event_loop()
        self.lock = None
        threading.Thread(target=self._run, name="services", daemon=True).start()
        self.pods = Watch(cluster, "pods", lambda: None)
        self.services = Watch(cluster, "services", self._changed)

    def _run(self):
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def awaits(self, address):
        """Waits until callers are led from this address to somewhere."""
        eventually(f"{address} is listened on", lambda: address in self.listeners)

    def stop(self):
        self.pods.ended = self.services.ended = True
        self.loop.call_soon_threadsafe(self.loop.stop)

    def _changed(self):
        asyncio.run_coroutine_threadsafe(self._listen(), self.loop)

    async def _listen(self):
        self.lock = self.lock or asyncio.Lock()
        async with self.lock:
            wanted = {}
            for service in self.services.objects.values():
                spec = service["spec"]
                if spec.get("selector") and spec.get("clusterIP") not in (None, "", "None"):
                    wanted.update({(spec["clusterIP"], port["port"]): (spec["selector"], port["targetPort"]) for port in spec["ports"]})
            for gone in self.listeners.keys() - wanted.keys():
                self.listeners.pop(gone).close()
            for address in wanted.keys() - self.listeners.keys():
                self.listeners[address] = await asyncio.start_server(self._accept(*wanted[address]), *address, backlog=BACKLOG)

    def _endpoints(self, selector, target):
        pods = [pod for pod in self.pods.objects.values() if is_ready(pod) and selector.items() <= pod["metadata"].get("labels", {}).items()]
        return [found for pod in sorted(pods, key=lambda pod: pod["metadata"]["name"]) if (found := endpoint(pod, target))]

    def _accept(self, selector, target):
        async def accepted(reader, writer):
            try:
                endpoints = self._endpoints(selector, target)
                if endpoints:
                    there, back = await asyncio.open_connection(*endpoints[next(self.turn) % len(endpoints)])
                    await asyncio.gather(pass_on(reader, back), pass_on(there, writer))
            except OSError:
                # The pod does not listen, or has reset the connection: the caller sees the same.
                writer.transport.abort()
            finally:
                writer.close()

        return accepted


async def pass_on(reader, writer):
    """What one side sends, to the other; its end too."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
