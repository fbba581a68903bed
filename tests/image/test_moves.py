"""What the compose file starts, started one by one on loopback: the image, and in place of the others' images a real Kafka, Prometheus and Alertmanager.

Each gets the settings of the file; what changes are addresses and folders. Grafana is not to be had: what it would read is looked at in `test_compose.py`.
"""

import subprocess
import time

import pytest
import yaml

from bed import Not, Process, eventually, get, java, jars, port, tool
from bed import KAFKA as KAFKA_SETTINGS
from bed import Prometheus as Asked
from support import container, volume

#: Callbacks that are sent: some seconds at the rate of the file.
COUNT = 200


class Kafka:
    """A broker with the settings that the variables of the service are for its image: KAFKA_LOG_DIRS is log.dirs."""

    def __init__(self, service, folder):
        variables = service["environment"]
        self.address = f"127.0.0.1:{port()}"
        places = {"kafka:29093": f"127.0.0.1:{port()}", "kafka:19092": self.address, "localhost:9092": f"127.0.0.1:{port()}"}
        settings = {}
        for name, value in variables.items():
            if name.startswith("KAFKA_") and name != "KAFKA_HEAP_OPTS":
                for told, place in places.items():
                    # As it is advertised, and as it is listened on.
                    value = value.replace(told, place).replace(f"//:{told.partition(':')[2]}", f"//{place}")
                settings[name.removeprefix("KAFKA_").lower().replace("_", ".")] = value
        settings["log.dirs"] = folder / "kafka"
        file = folder / "server.properties"
        file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        formatted = [*java(128), "kafka.tools.StorageTool", "format", "-t", variables["CLUSTER_ID"], "-c", file]
        done = subprocess.run(list(map(str, formatted)), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        self.process = Process([*java(256), f"-Dlog4j2.configurationFile={KAFKA_SETTINGS}/log4j2.properties", "kafka.Kafka", file], folder / "kafka.log")
        eventually("Kafka serves", lambda: self.process.check() and "Kafka Server started" in self.process.log.read_text(), 120)


class Prometheus(Asked):
    """Debian's Prometheus with the file's configuration. Where others are, and where the rules lie, is what this machine has."""

    def __init__(self, compose, folder, places):
        self.port = port()
        written = yaml.safe_load(compose.outside("prometheus", "/etc/prometheus/prometheus.yml").read_text())
        written["rule_files"] = [str(compose.outside("prometheus", pattern)) for pattern in written["rule_files"]]
        text = yaml.safe_dump(written)
        for told, place in (places | {"localhost:9090": f"127.0.0.1:{self.port}"}).items():
            assert text.count(told) == 1, told
            text = text.replace(told, place)
        (folder / "prometheus.yml").write_text(text)
        command = [tool("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb"]
        self.process = Process([*command, f"--web.listen-address=127.0.0.1:{self.port}"], folder / "prometheus.log")
        eventually("Prometheus is ready", lambda: self.process.check() and get(f"http://127.0.0.1:{self.port}/-/ready"))


@pytest.fixture
def kafka(compose, tmp_path):
    assert jars()
    broker = Kafka(compose.services["kafka"], tmp_path)
    yield broker
    broker.process.kill()


@pytest.fixture
def alertmanager(compose, tmp_path):
    address = f"127.0.0.1:{port()}"
    file = compose.outside("alertmanager", "/etc/alertmanager/alertmanager.yml")
    command = [tool("alertmanager"), f"--config.file={file}", f"--storage.path={tmp_path}/alertmanager", "--cluster.listen-address="]
    process = Process([*command, f"--web.listen-address={address}"], tmp_path / "alertmanager.log")
    eventually("Alertmanager is ready", lambda: process.check() and get(f"http://{address}/-/ready"))
    yield address
    process.kill()


def metric(admin, series):
    lines = [line.split() for line in get(f"http://127.0.0.1:{admin}/metrics").splitlines() if line.startswith(series)]
    return sum(float(line[-1]) for line in lines)


def test_everything_moves(image, compose, kafka, alertmanager, tmp_path):
    public, admin = port(), port()
    service = compose.services["bridge"]
    environment = service["environment"] | {
        "CHAT_BRIDGE_HTTP__LISTEN": f"127.0.0.1:{public}",
        "CHAT_BRIDGE_ADMIN__LISTEN": f"127.0.0.1:{admin}",
        "CHAT_BRIDGE_KAFKA__BOOTSTRAP_SERVERS": kafka.address,
    }
    with volume() as journal:
        options = [f"--env={name}={value}" for name, value in environment.items()]
        options += [f"--volume={source}:{place}:ro" for place, source in compose.binds("bridge").items()]
        options.append(f"--volume={journal}:/var/lib/chat-bridge")
        with container(image, options=options) as bridge:
            eventually("the bridge is healthy", lambda: bridge.check() and bridge.health() == 0)
            prometheus = Prometheus(compose, tmp_path, {"bridge:9090": f"127.0.0.1:{admin}", "alertmanager:9093": alertmanager})
            try:
                load(image, compose, public)
                published = 'chat_bridge_records_completed_total{outcome="published"}'
                eventually("all is published", lambda: bridge.check() and metric(admin, published) == COUNT)
                watched(prometheus, alertmanager)
            finally:
                prometheus.process.kill()
            assert bridge.stop(int(service["stop_grace_period"].removesuffix("s"))) == 0, bridge.log()


def load(image, compose, public):
    """The service's own words, but for where to, and how long."""
    words = [word for word in compose.services["load"]["command"] if not word.startswith(("--target=", "--duration="))]
    options = [f"--volume={source}:{place}:ro" for place, source in compose.binds("load").items()]
    started = time.monotonic()
    image.run(*words, f"--target=http://127.0.0.1:{public}/", f"--count={COUNT}", options=options)
    assert time.monotonic() - started < 60


def watched(prometheus, alertmanager):
    """Every target is scraped, every rule evaluated without an error, the bridge's numbers are there, and Alertmanager is found."""

    def scraped():
        targets = prometheus.ask("targets")["activeTargets"]
        unwell = [(one["labels"]["job"], one["health"], one["lastError"]) for one in targets if one["health"] != "up"]
        return Not(unwell) if unwell or len(targets) != 2 else True

    eventually("targets are up", scraped)

    def counted():
        sums = [value for _, value in prometheus.query('sum(chat_bridge_callbacks_total{job="chat-bridge", outcome="accepted"})')]
        return True if sums == [COUNT] else Not(sums)

    eventually("the callbacks are counted", counted)

    def evaluated():
        rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
        return Not([rule["name"] for rule in rules if rule["health"] != "ok"]) if not rules or any(rule["health"] != "ok" for rule in rules) else True

    eventually("rules are evaluated", evaluated)
    assert [one["url"] for one in prometheus.ask("alertmanagers")["activeAlertmanagers"]] == [f"http://{alertmanager}/api/v2/alerts"]
