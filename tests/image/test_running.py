"""The image, running: confined as the chart confines its pods, with a volume that the engine made."""

import contextlib
import hashlib
import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from bed import eventually, get, port
from support import USER, container, manifest, podman, volume

APP = 1400000000
TOKEN = "token-of-the-tests"
#: What `docker stop --time` is given: more than the bridges here take.
PATIENCE = 45
USAGE, UNAVAILABLE, CONFIGURATION = 64, 69, 78


def test_each_verb_runs_by_its_name(image):
    assert image.run("--version").stdout == f"chat-bridge {manifest()['version']}\n"
    assert "healthcheck" in image.run("--help").stdout
    assert image.run("no-such-verb", code=USAGE).stderr


def test_without_a_configuration_it_says_what_is_missing(image):
    """`serve` is what runs where no verb is named."""
    assert "apps" in image.run(code=CONFIGURATION).stderr
    assert "apps" in image.run("check", code=CONFIGURATION).stdout


class Bridge:
    """What a bridge in a container is told, and how it is asked."""

    def __init__(self, folder, journal, kafka):
        self.public, self.admin = port(), port()
        self.folder = folder
        (folder / "tokens").write_text(TOKEN + "\n")
        (folder / "config.toml").write_text(
            f'[http]\nlisten = "127.0.0.1:{self.public}"\n[admin]\nlisten = "127.0.0.1:{self.admin}"\n'
            f'[[apps]]\nsdk_app_id = {APP}\ntokens_file = "/etc/chat-bridge/tokens"\n'
            '[journal]\nsize_max = "64MiB"\nsegment_size = "8MiB"\nfree_space_min = "1MiB"\n'
            f'[kafka]\nbootstrap_servers = "{kafka}"\ninstance = "0"\n[topics]\npartitions = 2\nreplication_factor = 1\n'
            '[shutdown]\nlame_duck = "0s"\ndrain_max = "2s"\n'
        )
        folder.chmod(0o755)
        self.options = ["--env=CHAT_BRIDGE_CONFIG=/etc/chat-bridge/config.toml", f"--volume={folder}:/etc/chat-bridge:ro", f"--volume={journal}:/var/lib/chat-bridge"]

    def value(self, series):
        for line in get(f"http://127.0.0.1:{self.admin}/metrics").splitlines():
            if line.startswith(series + " "):
                return float(line.split()[-1])
        raise AssertionError(f"no {series}")

    def ready(self, one):
        eventually("it takes callbacks", lambda: one.check() and self.value("chat_bridge_ready") == 1)

    def post(self):
        """One callback, as Chat sends it; the answer."""
        now = int(time.time())
        query = {"SdkAppid": APP, "CallbackCommand": "Group.CallbackAfterGroupFull", "contenttype": "json", "RequestTime": now}
        query["Sign"] = hashlib.sha256(f"{TOKEN}{now}".encode()).hexdigest()
        body = json.dumps({"CallbackCommand": "Group.CallbackAfterGroupFull", "GroupId": "@TGS#1", "EventTime": str(now * 1000)})
        request = urllib.request.Request(f"http://127.0.0.1:{self.public}/?{urllib.parse.urlencode(query)}", data=body.encode(), method="POST")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read()


OK = (200, b'{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0}')
PUBLISHED = 'chat_bridge_records_completed_total{outcome="published"}'


@pytest.fixture
def kafka(image):
    """The embedded Kafka of `dev`, in a container of its own."""
    words = ["dev", f"--listen=127.0.0.1:{port()}", f"--admin-listen=127.0.0.1:{port()}", "--format=json"]
    with container(image, *words, options=["--tmpfs=/tmp:mode=1777"]) as dev:

        def started():
            lines = [json.loads(line) for line in dev.log().splitlines() if line.startswith("{")]
            return next((line["bootstrap_servers"] for line in lines if line.get("event") == "started"), None)

        yield eventually("dev has begun", lambda: dev.check() and started())


@contextlib.contextmanager
def served(image, bridge):
    with container(image, options=bridge.options) as one:
        bridge.ready(one)
        yield one


def test_a_callback_is_answered_and_published_and_sigterm_ends_it_with_0(image, kafka, tmp_path):
    with volume() as journal:
        bridge = Bridge(tmp_path, journal, kafka)
        assert image.run("check", options=bridge.options).returncode == 0
        with served(image, bridge) as one:
            assert bridge.post() == OK
            eventually("it is published", lambda: one.check() and bridge.value(PUBLISHED) == 1)
            confined(one)
            started = time.monotonic()
            assert one.stop(PATIENCE) == 0, one.log()
            assert time.monotonic() - started < PATIENCE
        folder = Path(podman("volume", "inspect", "--format={{.Mountpoint}}", journal).stdout.strip())
        assert (folder.stat().st_uid, folder.stat().st_gid) == (USER, USER), "a volume takes its owner from the image"
        assert image.run("journal", "verify", options=bridge.options).returncode == 0


def confined(one):
    """What the kernel says of the process: who it is, and what it may."""
    status = one.status()
    assert set(status["Uid"].split()) == set(status["Gid"].split()) == {str(USER)}
    assert [status[name] for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")] == ["0" * 16] * 4
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    mounts = Path(f"/proc/{one.inspect()['State']['Pid']}/mountinfo").read_text().splitlines()
    (root,) = [fields for fields in (line.split() for line in mounts) if fields[4] == "/"]
    assert "ro" in root[5].split(",")


def test_health_is_that_of_the_bridge(image, tmp_path):
    with volume() as journal:
        bridge = Bridge(tmp_path, journal, f"127.0.0.1:{port()}")
        with served(image, bridge) as one:
            assert one.health() == 0
            # Elsewhere nobody answers; with an address no configuration is needed.
            one.exec("healthcheck", f"--address=127.0.0.1:{bridge.admin}")
            one.exec("healthcheck", f"--address=127.0.0.1:{port()}", code=UNAVAILABLE)
            one.signal("SIGSTOP")
            assert one.health() != 0
            one.signal("SIGCONT")
            assert one.health() == 0


def test_what_was_answered_outlives_a_kill_and_the_container(image, kafka, tmp_path):
    with volume() as journal:
        away = Bridge(tmp_path, journal, f"127.0.0.1:{port()}")
        with served(image, away) as one:
            assert [away.post() for _ in range(3)] == [OK] * 3
            one.signal("SIGKILL")
        back = Bridge(tmp_path, journal, kafka)
        with served(image, back) as one:
            assert back.value("chat_bridge_journal_recovered_records_total") == 3
            eventually("they are published", lambda: one.check() and back.value(PUBLISHED) == 3)


def test_a_journal_that_is_not_the_users_is_refused(image, tmp_path):
    """A folder of the machine has to belong to the user of the image: the bridge says so, and does not begin."""
    folder = tmp_path / "journal"
    folder.mkdir(mode=0o755)
    (tmp_path / "config").mkdir()
    bridge = Bridge(tmp_path / "config", folder, f"127.0.0.1:{port()}")
    done = image.run(options=bridge.options, code=None)
    assert done.returncode in (74, CONFIGURATION), done.stdout + done.stderr
    assert "/var/lib/chat-bridge" in done.stdout + done.stderr


def test_nothing_can_be_run_but_the_bridge(image):
    for program in ("sh", "/bin/sh", "bash", "cat"):
        done = podman("run", "--rm", "--network=host", "--pull=never", f"--entrypoint={program}", image.name, "-c", "true", code=None)
        assert done.returncode == 127, f"{program}: {done.returncode} {done.stderr}"


def test_the_archive_bears_the_name_that_others_take_it_by(image, tmp_path):
    done = subprocess.run([Path(__file__).parent / "build", tmp_path / "image.tar"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = subprocess.run(["tar", "-xOf", tmp_path / "image.tar", "manifest.json"], capture_output=True, text=True, check=True).stdout
    (entry,) = json.loads(text)
    assert entry["RepoTags"] == [f"localhost/chat-bridge:{manifest()['version']}"]
    assert entry["Config"].removesuffix(".json") == image.inspect["Id"], "what has not changed is not built anew"
