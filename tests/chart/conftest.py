import os
import pathlib
import shutil
import subprocess

import pytest

import support


@pytest.fixture(scope="session")
def chart(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chart") / "chat-bridge"
    shutil.copytree(support.CHART, folder)
    for part in ("rules", "dashboards"):
        shutil.copytree(support.HERE / "fixtures" / part, folder / part, dirs_exist_ok=True)
    (support.HERE / "target" / "home").mkdir(parents=True, exist_ok=True)
    return support.Chart(folder)


@pytest.fixture(scope="session")
def bridge():
    given = os.environ.get("CHAT_BRIDGE_BINARY")
    candidates = [pathlib.Path(given)] if given else [support.REPOSITORY / "target" / kind / "chat-bridge" for kind in ("release", "debug")]
    found = [path for path in candidates if path.is_file()]
    assert found, f"no bridge at {', '.join(map(str, candidates))}: build it, or name it in CHAT_BRIDGE_BINARY"

    def run(*arguments, environment=None):
        return subprocess.run([found[0], *map(str, arguments)], capture_output=True, text=True, timeout=60, env={"PATH": os.environ["PATH"]} | (environment or {}), check=False)

    return run


@pytest.fixture(scope="session")
def pem(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=chat.example.com -days 2 -keyout key.pem -out certificate.pem"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return {"key": (folder / "key.pem").read_text(), "certificate": (folder / "certificate.pem").read_text()}
