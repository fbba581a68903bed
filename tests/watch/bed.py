"""A running system: Kafka, bridges under load, Prometheus and Alertmanager, all on loopback.

Every process is a child that the kernel kills with this one, and is ended by its own handle. Nothing waits by time: `eventually` asks until it is so, or fails
with what it saw last.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
KAFKA = ROOT / "tests/kafka"
APP = 1400000000
TOKEN = "token-of-the-tests"
LIBC = ctypes.CDLL(None)


def tool(name):
    return HERE / "target/bin" / name


def program():
    """The bridge's binary."""
    named = os.environ.get("CHAT_BRIDGE_BINARY")
    built = [Path(named)] if named else [ROOT / "target" / profile / "chat-bridge" for profile in ("release", "debug")]
    there = [path for path in built if path.is_file()]
    assert there, f"no bridge at {' or '.join(map(str, built))}: build it, or name it in CHAT_BRIDGE_BINARY"
    return max(there, key=lambda path: path.stat().st_mtime)


def environment():
    """Without what would be settings of the bridge: it refuses those that it does not know, such as the name of its own binary."""
    return {key: value for key, value in os.environ.items() if not key.startswith("CHAT_BRIDGE_")}


def eventually(what, condition, patience=90.0, pause=0.2):
    """What `condition` gives once it is neither None nor False. It fails with the last answer, where that is a text, after `patience` seconds."""
    end = time.monotonic() + patience
    said = None
    while True:
        try:
            answer = condition()
        except (OSError, urllib.error.URLError) as error:
            answer, said = None, repr(error)
        if answer is not None and answer is not False and not isinstance(answer, Not):
            return answer
        if isinstance(answer, Not):
            said = answer.why
        assert time.monotonic() < end, f"not within {patience:.0f} s: {what}: {said}"
        time.sleep(pause)


class Not:
    """Not yet, and why."""

    def __init__(self, why):
        self.why = why


_taken = set()


def port():
    """A port that nobody listens on. Below the ephemeral range, in which a client that keeps trying can come to be connected to itself."""
    while True:
        number = random.randrange(20_000, 32_000)
        if number in _taken:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", number))
            _taken.add(number)
            return number


def _with_parent():
    LIBC.prctl(1, signal.SIGKILL)


class Process:
    """A child whose output goes to a file."""

    def __init__(self, command, log, cwd=None):
        self.log = Path(log)
        self.command = [str(part) for part in command]
        with self.log.open("ab") as out:
            self.child = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=cwd, env=environment(), preexec_fn=_with_parent
            )

    def alive(self):
        return self.child.poll() is None

    def check(self):
        assert self.alive(), f"{self.command} ended with {self.child.returncode}: {self.log.read_text()[-2000:]}"
        return True

    def kill(self):
        if self.alive():
            self.child.kill()
        self.child.wait()


def open_port(number):
    with socket.create_connection(("127.0.0.1", number), timeout=5.0):
        return True


def get(url, timeout=5.0):
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return answer.read().decode()


# Kafka


def jars():
    """Kafka's jars, which these tests share with those of the program: the same folder, lock and stamp."""
    target = KAFKA / "target"
    target.mkdir(exist_ok=True)
    with (target / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lib, stamp = target / "lib", hashlib.sha256((KAFKA / "pom.xml").read_bytes()).hexdigest()
        known = target / "lib.stamp"
        if not (lib.is_dir() and known.is_file() and known.read_text() == stamp):
            shutil.rmtree(lib, ignore_errors=True)
            lib.mkdir()
            goal = ["-B", "-q", "dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={lib}"]
            if subprocess.run(["mvn", "-o", *goal], cwd=KAFKA, capture_output=True).returncode != 0:
                subprocess.run(["mvn", *goal], cwd=KAFKA, check=True)
            known.write_text(stamp)
    return lib


def java(heap):
    return ["java", f"-Xmx{heap}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-cp", f"{jars()}/*"]


class Kafka:
    """One broker that is its own controller. It listens open, and with a user and a password."""

    USER, PASSWORD = "bridge", "right"

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir()
        self.open, self.sasl, controller = port(), port(), port()
        self.settings = self.folder / "server.properties"
        plain = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        self.settings.write_text(
            "process.roles=broker,controller\nnode.id=1\n"
            f"controller.quorum.voters=1@127.0.0.1:{controller}\ncontroller.listener.names=CONTROLLER\n"
            f"listeners=OPEN://127.0.0.1:{self.open},SASL://127.0.0.1:{self.sasl},CONTROLLER://127.0.0.1:{controller}\n"
            f"advertised.listeners=OPEN://127.0.0.1:{self.open},SASL://127.0.0.1:{self.sasl}\n"
            "inter.broker.listener.name=OPEN\n"
            "listener.security.protocol.map=OPEN:PLAINTEXT,SASL:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT\n"
            "sasl.enabled.mechanisms=PLAIN\n"
            f'listener.name.sasl.plain.sasl.jaas.config={plain} user_{self.USER}="{self.PASSWORD}";\n'
            "auto.create.topics.enable=false\ndefault.replication.factor=1\noffsets.topic.replication.factor=1\n"
            "transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\ntransaction.state.log.num.partitions=2\n"
            "group.initial.rebalance.delay.ms=0\nlog.cleaner.dedupe.buffer.size=4194304\n"
            f"log.dirs={self.folder}/data\n"
        )
        format_it = ["kafka.tools.StorageTool", "format", "-t", "Y2hhdC1icmlkZ2UtdGVzdA", "-c", self.settings]
        done = subprocess.run([*java(128), *map(str, format_it)], capture_output=True, text=True, cwd=self.folder)
        assert done.returncode == 0, done.stdout + done.stderr
        self.starts = 0
        self.process = None

    def start(self):
        self.starts += 1
        settings = f"-Dlog4j2.configurationFile={KAFKA}/log4j2.properties"
        command = [*java(256), settings, "kafka.Kafka", self.settings]
        self.process = Process(command, self.folder / f"process-{self.starts}.log", cwd=self.folder)
        return self

    def started(self):
        eventually("Kafka serves", lambda: self.process.check() and "Kafka Server started" in self.process.log.read_text(), 120)
        return self

    def kill(self):
        self.process.kill()

    def delete(self, topic):
        command = [*java(64), HERE / "DeleteTopic.java", f"127.0.0.1:{self.open}", topic]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


# The bridge


class Bridge:
    """One bridge with a job of its own in Prometheus, and its load."""

    def __init__(self, bed, name, kafka, instance=0, job=None, journal=None, settings=None, sasl=False, prefix="chat.", tls=False):
        self.bed, self.name, self.job = bed, name, job or name
        self.folder = bed.folder / name
        self.folder.mkdir()
        self.public, self.admin = port(), port()
        self.tokens = self.folder / "tokens"
        self.tokens.write_text(TOKEN + "\n")
        self.password = self.folder / "password"
        self.password.write_text(Kafka.PASSWORD)
        self.config = self.folder / "bridge.toml"
        self.kafka = kafka
        table = {
            "http": {"listen": f"127.0.0.1:{self.public}", "body_max": "256KiB"},
            "admin": {"listen": f"127.0.0.1:{self.admin}"},
            "journal": {"dir": str(journal or self.folder / "journal"), "size_max": "256MiB", "segment_size": "1MiB", "free_space_min": "1MiB"},
            "kafka": {"bootstrap_servers": f"127.0.0.1:{kafka.sasl if sasl else kafka.open}", "instance": str(instance)},
            "topics": {"prefix": prefix, "partitions": 2, "replication_factor": 1},
            "shutdown": {"lame_duck": "0s"},
        }
        self.tls = tls
        if tls:
            self.certificate, self.key = self.folder / "tls.crt", self.folder / "tls.key"
            self.certify(30)
            table["http.tls"] = {"certificate": str(self.certificate), "private_key": str(self.key)}
        if sasl:
            table["kafka.properties"] = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": Kafka.USER}
            table["kafka.secret_files"] = {"sasl.password": str(self.password)}
        for section, values in (settings or {}).items():
            table.setdefault(section, {}).update(values)
        lines = []
        for section, values in table.items():
            lines.append(f"[{section}]")
            lines += [f"{json.dumps(key)} = {json.dumps(value)}" for key, value in values.items()]
        lines += ["[[apps]]", f"sdk_app_id = {APP}", f"tokens_file = {json.dumps(str(self.tokens))}"]
        self.config.write_text("\n".join(lines) + "\n")
        self.process = None
        self.loads = []
        self.into_tls = None

    def certify(self, days):
        """Another certificate, which ends so many days from now."""
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-batch", "-subj", "/CN=localhost", "-days", str(days)]
        subprocess.run([*command, "-keyout", self.key, "-out", self.certificate], check=True, capture_output=True)

    def start(self):
        self.process = Process([program(), "serve", "--config", self.config], self.folder / "bridge.log")
        return self

    def metrics(self):
        return get(f"http://127.0.0.1:{self.admin}/metrics")

    def value(self, series):
        for line in self.metrics().splitlines():
            if line.startswith(series + " "):
                return float(line.split()[-1])
        raise AssertionError(f"no {series}")

    def serves(self):
        eventually(f"{self.name} takes callbacks", lambda: self.process.check() and self.value("chat_bridge_ready") == 1)

    def publishes(self):
        """Waits until a broker is connected, no topic is parked, and events are confirmed."""

        def does():
            self.process.check()
            text = self.metrics()
            parked = [line for line in text.splitlines() if line.startswith("chat_bridge_topic_parked") and not line.endswith(" 0")]
            up = self.value('chat_bridge_kafka_brokers{state="up"}')
            published = self.value('chat_bridge_records_completed_total{outcome="published"}')
            return True if up and published and not parked else Not(f"brokers {up}, published {published}, {parked}")

        eventually(f"{self.name} publishes", does)

    def kill(self):
        self.process.kill()

    def load(self, rate=20, tokens=None, **more):
        """Callbacks until the load is ended."""
        command = [program(), "simulate", "load", "--target", f"http://127.0.0.1:{self.plain()}/", "--connections", 4, "--rate", rate]
        command += ["--duration", "30m", "--app", APP, "--token-file", tokens or self.tokens, "--continue-on-error"]
        for option, value in more.items():
            command += [f"--{option.replace('_', '-')}", value]
        process = Process(command, self.folder / f"load-{len(self.loads)}.log")
        self.loads.append(process)
        return process

    def plain(self):
        """A port that takes callbacks without TLS."""
        if not self.tls:
            return self.public
        if self.into_tls is None:
            self.into_tls = port()
            way = [sys.executable, HERE / "into_tls.py", self.into_tls, self.public]
            process = Process(way, self.folder / "into-tls.log")
            # It ends with them.
            self.loads.append(process)
            eventually("the way into TLS is open", lambda: process.check() and open_port(self.into_tls))
        return self.into_tls

    def post(self, body, command="Group.CallbackAfterGroupFull", token=TOKEN, skew=0, app=APP):
        """One callback by hand; its status."""
        now = int(time.time()) - skew
        query = {"SdkAppid": app, "CallbackCommand": command, "contenttype": "json", "RequestTime": now}
        if token:
            query["Sign"] = hashlib.sha256(f"{token}{now}".encode()).hexdigest()
        scheme = "https" if self.tls else "http"
        request = urllib.request.Request(f"{scheme}://127.0.0.1:{self.public}/?{urllib.parse.urlencode(query)}", data=body.encode(), method="POST")
        try:
            with urllib.request.urlopen(request, timeout=10, context=ssl._create_unverified_context()) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def run(self, *words):
        done = subprocess.run([program(), *words, "--config", self.config], capture_output=True, text=True, env=environment())
        assert done.returncode == 0, done.stdout + done.stderr


# Prometheus and Alertmanager


class Prometheus:
    """Scrapes and evaluates every second."""

    def __init__(self, bed, bridges, rules, alertmanager=None):
        folder = bed.folder / "prometheus"
        folder.mkdir()
        self.port = port()
        (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
        jobs = {}
        for bridge in bridges:
            jobs.setdefault(bridge.job, []).append({"targets": [f"127.0.0.1:{bridge.admin}"], "labels": {"instance": bridge.name}})
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(folder / "rules.yaml")],
            "scrape_configs": [{"job_name": job, "static_configs": targets} for job, targets in jobs.items()],
        }
        if alertmanager:
            targets = [{"targets": [f"127.0.0.1:{alertmanager.port}"]}]
            config["alerting"] = {"alertmanagers": [{"static_configs": targets}]}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        command = [tool("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        command += [f"--web.listen-address=127.0.0.1:{self.port}", "--rules.alert.resend-delay=2s"]
        self.process = Process(command, folder / "log")
        eventually("Prometheus is ready", lambda: self.process.check() and get(f"http://127.0.0.1:{self.port}/-/ready"))

    def ask(self, path, **parameters):
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            answer = json.loads(get(url, 30))
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expr, at=None):
        """The series that an instant query gives now: labels and value."""
        data = self.ask("query", query=expr, **({"time": at} if at else {}))
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(series["metric"], float(series["value"][1])) for series in data["result"]]

    def range(self, expr, start, end, step):
        data = self.ask("query_range", query=expr, start=start, end=end, step=step)
        return [(series["metric"], [(float(at), float(value)) for at, value in series["values"]]) for series in data["result"]]

    def passes(self, evaluations):
        """Waits until the rules were evaluated so many times more."""

        def count():
            return min((float(group["lastEvaluation"] != ""), group["lastEvaluation"]) for group in self.ask("rules")["groups"])

        for _ in range(evaluations):
            before = count()
            eventually("rules are evaluated", lambda before=before: count() != before, 30, 0.05)


class Alertmanager:
    """Takes alerts, groups none, tells nobody."""

    def __init__(self, bed):
        folder = bed.folder / "alertmanager"
        folder.mkdir()
        self.port = port()
        (folder / "alertmanager.yml").write_text("route: {receiver: nobody, group_by: ['...'], group_wait: 0s}\nreceivers: [{name: nobody}]\n")
        command = [tool("alertmanager"), f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}/data"]
        command += [f"--web.listen-address=127.0.0.1:{self.port}", "--cluster.listen-address="]
        self.process = Process(command, folder / "log")
        eventually("Alertmanager is ready", lambda: self.process.check() and get(f"http://127.0.0.1:{self.port}/-/ready"))

    def alerts(self):
        """What fires: labels and annotations."""
        return json.loads(get(f"http://127.0.0.1:{self.port}/api/v2/alerts?active=true"))

    def names(self):
        """The names of what fires by job; an alert without one stands under the empty name."""
        out = {}
        for alert in self.alerts():
            out.setdefault(alert["labels"].get("job", ""), set()).add(alert["labels"]["alertname"])
        return out


class Bed:
    """All that was started, and the folder of it. Ends everything when it is left."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.children = []
        self.mounts = []

    def __enter__(self):
        return self

    def keep(self, thing):
        self.children.append(thing)
        return thing

    def tmpfs(self, name, megabytes):
        folder = self.folder / name
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "chat-bridge-watch", folder], check=True)
        self.mounts.append(folder)
        return folder

    def __exit__(self, *_):
        for thing in reversed(self.children):
            for load in getattr(thing, "loads", []):
                load.kill()
            if getattr(thing, "process", None):
                thing.process.kill()
        for folder in self.mounts:
            subprocess.run(["umount", folder], check=True)
