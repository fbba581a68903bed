"""The compose file: read by Docker Compose, and each thing that it names by the program that the thing is meant for. No engine runs it as a whole."""

import json
import re
import subprocess

import pytest
import yaml

from bed import tool
from support import DEPLOY, ROOT, USER, manifest

CONFIG = "/etc/chat-bridge/config.toml"
#: Ports of services by the images' own settings, where the file does not publish them.
PORTS = {"bridge": {"8080", "9090"}, "kafka": {"19092", "9092"}, "prometheus": {"9090"}, "alertmanager": {"9093"}}


def test_docker_compose_takes_it(compose):
    assert set(compose.services) == {"bridge", "load", "kafka", "prometheus", "alertmanager", "grafana"}
    assert compose.run("config", "--quiet") == ""


def test_every_image_is_pinned_to_a_version(compose):
    for name, service in compose.services.items():
        assert re.fullmatch(r"\S+:v?\d+\.\d+\.\d+", service["image"]), f"{name}: {service['image']}"
    ours = {compose.services[name]["image"] for name in ("bridge", "load")}
    assert ours == {f"chat-bridge:{manifest()['version']}"}
    kafka = re.search(r"<kafka.version>(.*)</kafka.version>", (ROOT / "tests/kafka/pom.xml").read_text())[1]
    assert compose.services["kafka"]["image"].endswith(f":{kafka}"), "the Kafka that the tests run against"


def test_our_image_is_built_by_the_dockerfile_and_never_pulled(compose):
    assert [compose.services[name]["pull_policy"] for name in ("bridge", "load")] == ["build", "never"]
    build = compose.services["bridge"]["build"]
    context = (compose.file.parent / build["context"]).resolve()
    assert context == ROOT and (context / build["dockerfile"]).resolve() == DEPLOY / "Dockerfile"


def test_what_is_mounted_is_there_and_cannot_be_changed(compose):
    for name, service in compose.services.items():
        for mount in service.get("volumes", []):
            if mount["type"] == "bind":
                assert mount["read_only"], f"{name}: {mount['source']}"
                path = (compose.file.parent / mount["source"]).resolve()
                assert path.is_relative_to(ROOT) and path.exists(), f"{name}: {path}"
            else:
                assert mount["source"] in compose.project["volumes"], f"{name}: {mount['source']}"


def test_ports_are_this_machines_alone(compose):
    published = [published for service in compose.services.values() for published in service.get("ports", [])]
    assert {one["host_ip"] for one in published} == {"127.0.0.1"}
    numbers = [one["published"] for one in published]
    assert len(numbers) == len(set(numbers))
    # The head of the file tells where to look.
    told = set(re.findall(r"^#   (?:http://)?localhost:(\d+)", compose.file.read_text(), re.M))
    assert told == set(numbers)


def test_our_containers_are_confined_as_the_charts_pods(compose):
    for name in ("bridge", "load"):
        service = compose.services[name]
        assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
        assert "user" not in service and not service.get("privileged"), "the image says who it runs as"
    assert compose.services["load"]["healthcheck"] == {"disable": True}
    assert "healthcheck" not in compose.services["bridge"], "the image's own"


@pytest.fixture(scope="session")
def inside(image, compose):
    """Runs a verb in the image with the mounts and the environment that the file gives a service."""

    def run(service, *words):
        options = [f"--volume={source}:{target}:ro" for target, source in compose.binds(service).items()]
        options += [f"--env={name}={value}" for name, value in compose.services[service].get("environment", {}).items()]
        return image.run(*words, options=options)

    return run


def test_the_bridge_takes_its_configuration(inside, compose):
    assert compose.services["bridge"]["environment"]["CHAT_BRIDGE_CONFIG"] == CONFIG
    inside("bridge", "check")
    settings = json.loads(inside("bridge", "config", "dump", "--format=json").stdout)
    host, _, number = settings["kafka"]["bootstrap_servers"].partition(":")
    advertised = compose.services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert f"INSIDE://{host}:{number}" in advertised.split(",") and host in compose.services
    # One broker.
    assert settings["topics"]["replication_factor"] == 1 and settings["topics"]["create"]
    targets = {mount["target"] for mount in compose.services["bridge"]["volumes"] if mount["type"] == "volume"}
    assert targets == {settings["journal"]["dir"]}, "the journal is on a volume"
    assert [settings["http"]["listen"], settings["admin"]["listen"]] == ["0.0.0.0:8080", "0.0.0.0:9090"]


SECONDS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600}


def seconds(text):
    return sum(float(number) * SECONDS[unit] for number, unit in re.findall(r"([\d.]+)([a-z]+)", text))


def test_a_stop_leaves_the_time_to_drain(inside, compose):
    config = json.loads(inside("bridge", "config", "dump", "--format=json").stdout)
    parts = [("shutdown", "lame_duck"), ("http", "body_timeout"), ("journal", "answer_max"), ("shutdown", "drain_max")]
    grace = seconds(compose.services["bridge"]["stop_grace_period"])
    assert grace >= sum(seconds(config[section][key]) for section, key in parts) + 10


def test_tokens_can_be_read_by_the_images_user(compose):
    path = compose.outside("bridge", "/etc/chat-bridge/tokens")
    assert path == compose.outside("load", "/etc/chat-bridge/tokens")
    assert path.stat().st_mode & 0o004, f"{USER} is not its owner"
    tracked = subprocess.run(["git", "ls-files", "--stage", path], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert tracked.startswith("100644 ")


def target(compose, address):
    """An address of one container in another's configuration: the service is there, and listens on that port."""
    host, _, number = address.removeprefix("http://").rstrip("/").partition(":")
    assert host in compose.services, f"{address}: no such service"
    assert number in PORTS[host], f"{address}: {host} listens on {PORTS[host]}"


def test_ports_are_those_of_the_image(image):
    assert {port.removesuffix("/tcp") for port in image.config["ExposedPorts"]} == PORTS["bridge"]


def test_the_load_is_sent_to_the_bridge(inside, compose):
    words = compose.services["load"]["command"]
    (to,) = [word.removeprefix("--target=") for word in words if word.startswith("--target=")]
    target(compose, to)
    assert to.endswith(":8080/")
    assert compose.services["load"]["depends_on"]["bridge"]["condition"] == "service_healthy"
    # Its words are taken; that it runs is a test of its own.
    assert "Usage: chat-bridge simulate load" in inside("load", *words, "--help").stdout


def test_prometheus_takes_its_configuration(compose, tmp_path):
    service = compose.services["prometheus"]
    (path,) = [word.removeprefix("--config.file=") for word in service["command"] if word.startswith("--config.file=")]
    written = yaml.safe_load(compose.outside("prometheus", path).read_text())
    rules = [compose.outside("prometheus", pattern) for pattern in written["rule_files"]]
    found = sorted(path for pattern in rules for path in pattern.parent.glob(pattern.name))
    assert found == sorted((ROOT / "helm/chat-bridge/rules").glob("*.yaml")) and found
    # promtool looks for the rules where the configuration says.
    written["rule_files"] = [str(pattern) for pattern in rules]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(written))
    done = subprocess.run([tool("promtool"), "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("rules found") == len(found)
    for job in written["scrape_configs"]:
        for address in (address for group in job["static_configs"] for address in group["targets"]):
            if job["job_name"] != "prometheus":
                target(compose, address)
    for manager in written["alerting"]["alertmanagers"]:
        for address in (address for group in manager["static_configs"] for address in group["targets"]):
            target(compose, address)
    assert "chat-bridge" in {job["job_name"] for job in written["scrape_configs"]}


def test_alertmanager_takes_its_configuration(compose):
    (path,) = [word.removeprefix("--config.file=") for word in compose.services["alertmanager"]["command"] if word.startswith("--config.file=")]
    done = subprocess.run([tool("amtool"), "check-config", compose.outside("alertmanager", path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def provisioned(compose, kind):
    """What Grafana reads of one kind: the files that are mounted into the folder in which it looks for them."""
    (path,) = [path for path in compose.binds("grafana") if path.startswith(f"/etc/grafana/provisioning/{kind}/")]
    written = yaml.safe_load(compose.outside("grafana", path).read_text())
    assert written["apiVersion"] == 1
    return written


def test_grafana_finds_prometheus(compose):
    (source,) = provisioned(compose, "datasources")["datasources"]
    assert (source["type"], source["access"], source["isDefault"]) == ("prometheus", "proxy", True)
    target(compose, source["url"])
    scrape = yaml.safe_load((DEPLOY / "compose/prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scrape


def test_grafana_finds_the_dashboard(compose):
    (provider,) = provisioned(compose, "dashboards")["providers"]
    assert provider["type"] == "file"
    folder = compose.outside("grafana", provider["options"]["path"])
    boards = {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}
    assert set(boards) == {"chat-bridge.json"} and boards["chat-bridge.json"]["uid"] == "chat-bridge"
    sources = [one for one in boards["chat-bridge.json"]["templating"]["list"] if one["type"] == "datasource"]
    assert [one["query"] for one in sources] == ["prometheus"]
    home = compose.services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert compose.outside("grafana", home) == folder / "chat-bridge.json"


def test_our_containers_have_what_they_write_on_volumes(image, compose):
    """Under a root that is read only a service writes on its volumes or nowhere."""
    volumes = {mount["target"] for mount in compose.services["bridge"]["volumes"] if mount["type"] == "volume"}
    assert volumes == set(image.config["Volumes"])
