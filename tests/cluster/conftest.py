"""The cluster, Kafka, and the release, once for all tests: each goes on where the one before has left it."""

import itertools
import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "watch")]

from bed import Kafka, program  # noqa: E402
from cluster import Cluster  # noqa: E402
from release import NAME, Release  # noqa: E402
from service import Services  # noqa: E402
from traffic import flowing  # noqa: E402

EVENT = "custom-columns=FIRST:.firstTimestamp,LAST:.lastTimestamp,EVENT:.eventTime,COUNT:.count,OBJECT:.involvedObject.name,REASON:.reason,MESSAGE:.message"
COUNTS = {"passed": 0, "failed": 0}


def pytest_configure(config):
    if "CLUSTER_WORK" not in os.environ:
        pytest.exit("these tests need namespaces of their own: start them by tests/cluster/run", 64)


def pytest_runtest_logreport(report):
    if report.failed:
        COUNTS["failed"] += 1
    elif report.when == "call" and report.passed:
        COUNTS["passed"] += 1


def pytest_sessionfinish(session):
    COUNTS["failed"] += COUNTS == {"passed": 0, "failed": 0}
    (Path(os.environ["CLUSTER_WORK"]) / "counts").write_text(f"{COUNTS['passed']} passed, {COUNTS['failed']} failed\n")


@pytest.fixture(scope="session")
def work():
    program()
    return Path(os.environ["CLUSTER_WORK"])


@pytest.fixture(scope="session")
def kafka(work):
    kafka = Kafka(work / "kafka").start()
    yield kafka
    kafka.kill()


@pytest.fixture(scope="session")
def cluster(work, kafka):
    cluster = Cluster(work, os.environ["CLUSTER_KUBERNETES"])
    cluster.start()
    cluster.load_image(HERE / "target/image.tar")
    kafka.started()
    yield cluster
    (work / "events.log").write_text(cluster.kubectl("get", "events", "--output", EVENT))


@pytest.fixture(scope="session")
def release(cluster, kafka, work):
    release = Release(cluster, kafka, work / "tokens")
    release.prepare()
    release.sign_with("first-token")
    return release


@pytest.fixture(scope="session")
def services(cluster):
    services = Services(cluster)
    yield services
    services.stop()


@pytest.fixture
def callbacks(request, work, release, services, kafka):
    """Begins a load on the release's Service, named like the test."""
    names = (f"{request.node.name}-{number}" for number in itertools.count())

    def begin():
        service = release.cluster.get("services", NAME)["spec"]
        address = service["clusterIP"], service["ports"][0]["port"]
        services.awaits(address)
        folder = work / "traffic"
        folder.mkdir(exist_ok=True)
        return flowing(folder, next(names), f"http://{address[0]}:{address[1]}/", f"127.0.0.1:{kafka.open}", release.tokens)

    return begin
