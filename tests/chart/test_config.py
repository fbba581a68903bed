"""The configuration that the chart renders, read by the real bridge."""

import json
import re
import tomllib

import pytest
import yaml

import support
from support import CHART, MINIMAL, REPOSITORY, VALUES_FILES, containers, of_kind, relative, the

ROOT = "/etc/chat-bridge/"
# What is said of the machine that the tests run on, and not of the configuration.
MACHINE = "warning: journal.dir:"
WHATEVER = ["--skip-schema-validation"]


def mounted(spec, objects, pem):
    """The files that the projected volume brings, with contents of their kind."""
    (volume,) = [one for one in spec["volumes"] if one["name"] == "config"]
    files = {}
    for source in volume["projected"]["sources"]:
        ((kind, reference),) = source.items()
        for item in reference["items"]:
            path = item["path"]
            assert path not in files, f"{path} is mounted twice"
            if path == "config.toml":
                files[path] = the(objects, "ConfigMap", reference["name"])["data"][item["key"]]
            elif path.startswith("tls/") or path.endswith(".location"):
                files[path] = pem["key" if "key" in path else "certificate"]
            else:
                files[path] = "a-token-or-a-password\n"
    return files


def read_by(bridge, spec, container, objects, pem, folder, *arguments):
    """What the bridge says to its container's files and environment, with the pod's folders in another place."""
    for path, content in mounted(spec, objects, pem).items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content.replace(ROOT, f"{folder}/"))
    environment = {}
    for variable in container["env"]:
        field = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
        value = "7" if "pod-index" in field else "10.0.0.7" if "podIP" in field else variable.get("value", "")
        environment[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda found: environment[found.group(1)], value).replace(ROOT, f"{folder}/")
    return bridge(*arguments, environment=environment)


@pytest.mark.parametrize("file", [relative(path) for path in VALUES_FILES])
def test_the_bridge_accepts_what_the_pod_has(chart, bridge, pem, file, tmp_path):
    objects = chart.objects(file)
    spec = the(objects, "StatefulSet")["spec"]["template"]["spec"]
    (container,) = [one for one in spec["containers"] if one["name"] == "bridge"]
    done = read_by(bridge, spec, container, objects, pem, tmp_path, "check")
    said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip() and not line.startswith(MACHINE)]
    assert (done.returncode, said) == (0, ["no problems"])


def test_the_bridge_refuses_what_is_wrong(chart, bridge, pem, tmp_path):
    objects = chart.objects(MINIMAL, values={"config": {"kafka": {"delivrey": "x"}, "journal": {"retention": "soon"}}}, more=WHATEVER)
    spec = the(objects, "StatefulSet")["spec"]["template"]["spec"]
    done = read_by(bridge, spec, spec["containers"][0], objects, pem, tmp_path, "check")
    assert done.returncode == 78
    assert "kafka.delivrey: unknown key" in done.stderr + done.stdout
    assert "journal.retention:" in done.stderr + done.stdout


def test_tests_and_the_drain_job_read_the_same_files(chart, bridge, pem, tmp_path):
    objects = chart.objects("ci/full-config-values.yaml", values={"drainJob": {"instance": 5}})
    seen = 0
    for kind in ("Job", "Pod"):
        for one in of_kind(objects, kind):
            spec = one["spec"]["template"]["spec"] if kind == "Job" else one["spec"]
            for container in containers(spec):
                if container["args"] == ["healthcheck"]:
                    continue
                seen += 1
                done = read_by(bridge, spec, container, objects, pem, tmp_path / container["name"], "config", "dump", "--format", "json")
                assert done.returncode == 0, done.stderr
                dumped = json.loads(done.stdout)
                assert dumped["kafka"]["instance"] == ("5" if kind == "Job" else "0")
                assert dumped["journal"]["dir"] == "/var/lib/chat-bridge"
    assert seen == 3


def test_each_container_runs_a_verb_that_there_is(chart, bridge):
    verbs = set()
    for file in ("ci/drain-job-values.yaml", MINIMAL):
        for one in chart.objects(file):
            for container in containers(one["spec"]["template"]["spec"] if one["kind"] in ("StatefulSet", "Job") else one["spec"] if one["kind"] == "Pod" else {}):
                verbs.add(tuple(container["args"]))
    assert {verb[0] for verb in verbs} == {"serve", "check", "topics", "healthcheck", "journal"}
    for verb in verbs:
        words = [word for word in verb if not word.startswith("-") and not word[0].isdigit()]
        options = [word for word in verb if word.startswith("-")]
        done = bridge(*words, "--help")
        assert done.returncode == 0, f"{words}: {done.stderr}"
        assert all(option in done.stdout for option in options), f"{words} has no {options}"


@pytest.mark.parametrize("name", ["bridge-chat-bridge", "chat-bridge", "im"])
def test_the_address_of_the_service_reaches_the_healthcheck(chart, bridge, name):
    (pod,) = [one for one in of_kind(chart.objects(MINIMAL, values={"fullnameOverride": name}), "Pod") if one["metadata"]["name"].endswith("-connection")]
    (container,) = pod["spec"]["containers"]
    prefix = name.upper().replace("-", "_")
    # As Kubernetes makes them of a Service; nobody listens on port 1.
    links = {f"{prefix}_SERVICE_HOST": "127.0.0.1", f"{prefix}_SERVICE_PORT": "80", f"{prefix}_SERVICE_PORT_ADMIN": "1", f"{prefix}_PORT": "tcp://127.0.0.1:80", f"{prefix}_PORT_80_TCP_ADDR": "127.0.0.1"}
    own = {one["name"]: re.sub(r"\$\((\w+)\)", lambda found: links[found.group(1)], one["value"]) for one in container["env"]}
    assert own == {"CHAT_BRIDGE_ADMIN__LISTEN": "127.0.0.1:9090"}
    done = bridge(*container["args"], environment=links | {"CHAT_BRIDGE_ADMIN__LISTEN": "127.0.0.1:1"})
    assert (done.returncode, "127.0.0.1:1 is not live" in done.stderr) == (69, True), done.stderr


def test_a_service_whose_variables_would_be_settings_is_not_asked_by_them(chart, bridge):
    assert bridge("healthcheck", environment={"CHAT_BRIDGE_EU_SERVICE_HOST": "127.0.0.1"}).returncode == 78
    pods = lambda **values: [one["metadata"]["name"] for one in of_kind(chart.objects(MINIMAL, values={"fullnameOverride": "chat-bridge-eu"} | values), "Pod")]
    assert pods() == ["chat-bridge-eu-test-configuration", "chat-bridge-eu-test-kafka"]
    assert "chat-bridge-eu-test-connection" in pods(helmTest={"address": "10.0.0.1:9090"})


@pytest.mark.parametrize("helm", support.HELMS)
def test_numbers_keep_their_digits(chart, helm):
    ids = [1400000000, 1600012345, 20012345678, 9007199254740991, 1]
    apps = [{"sdk_app_id": number} for number in ids]
    topics = {"config": {"chat.group-full": {"retention.ms": 31536000000, "ratio": 0.25, "retention.bytes": -1}}}
    values = {"config": {"apps": apps, "kafka": {"bootstrap_servers": "k:9092"}, "topics": topics}, "secrets": {"allowUnsigned": True}}
    text = support.config(chart.objects(values=values, helm=helm))
    assert "e+" not in text
    config = tomllib.loads(text)
    assert [app["sdk_app_id"] for app in config["apps"]] == ids
    assert config["topics"]["config"]["chat.group-full"] == {"retention.ms": 31536000000, "ratio": 0.25, "retention.bytes": -1}


@pytest.mark.parametrize("helm", support.HELMS)
def test_numbers_from_the_command_line_too(chart, helm):
    arguments = ["--set", "config.apps[0].sdk_app_id=1400000000", "--set", "config.kafka.bootstrap_servers=k:9092", "--set", "secrets.tokens.1400000000.existingSecret=a", "--set", "secrets.tokens.1400000000.key=b"]
    config = tomllib.loads(support.config(chart.objects(helm=helm, more=arguments)))
    assert config["apps"] == [{"sdk_app_id": 1400000000, "tokens_file": "/etc/chat-bridge/tokens/1400000000"}]


def test_the_toml_says_what_the_values_say(chart):
    """Whatever TOML has a form for comes back as it went in."""
    odd = {
        "text": {"quotes": 'a "b" \\ c', "lines": "a\nb\tc\r", "signs": "<&>\u2028 \u007f \u00e9 \U0001f600", "empty": "", "like a number": "1400000000", "like a truth": "true"},
        "numbers": {"zero": 0, "negative": -5, "large": 2**53, "part": 1.5, "small": 0.000001},
        "truths": {"yes": True, "no": False},
        "lists": {"empty": [], "texts": ["a", "b"], "numbers": [1, 2], "lists": [[1], []]},
        "keys": {"a.b": 1, "": 2, 'with "quotes"': 3, "\u00e9": 4, "bare-key_1": 5},
        "tables": {"a": {"b": {"c": {"d": 1}}}, "empty": {}, "rows": [{"x": 1, "inner": {"why": 2}}, {"x": 3, "rows": [{"z": 4}]}]},
    }
    values = {"config": {"answers": odd}}
    assert tomllib.loads(support.config(chart.objects(MINIMAL, values=values, more=WHATEVER)))["answers"] == odd
    gone = {"config": {"shutdown": {"lame_duck": None}}}
    assert "lame_duck" not in tomllib.loads(support.config(chart.objects(MINIMAL, values=gone)))["shutdown"]


def test_the_defaults_that_the_chart_counts_with_are_the_bridges(bridge, tmp_path):
    (tmp_path / "config.toml").write_text("[[apps]]\nsdk_app_id = 1\n")
    dumped = json.loads(bridge("config", "dump", "--format", "json", "--config", tmp_path / "config.toml").stdout)
    pattern = re.compile(r'"section" "(\w+)" "key" "(\w+)" "default" (?:"([^"]*)"|(\w+))')
    found = set()
    for template in CHART.glob("templates/**/*"):
        if template.is_file():
            found |= set(pattern.findall(template.read_text()))
    assert len(found) >= 8
    for section, key, text, other in found:
        assert dumped[section][key] == ({"false": False, "true": True}[other] if other else text), f"{section}.{key}"
    topics = dict(re.findall(r'dig "(prefix|partitions|replication_factor|max_message)" "?([\w.]+)"? \$topics', (CHART / "templates/_strimzi.tpl").read_text()))
    assert topics == {key: str(dumped["topics"][key]) for key in ("prefix", "partitions", "replication_factor", "max_message")}


def test_the_topics_are_those_that_the_bridge_makes(chart):
    source = (REPOSITORY / "src/kafka/topics/plan.rs").read_text()
    partitions = re.search(r"POSITIONS_PARTITIONS: u16 = (\d+)", source).group(1)
    segment = re.search(r'SEGMENT_BYTES: &str = "(\d+)"', source).group(1)
    template = (CHART / "templates/_strimzi.tpl").read_text()
    assert f"default {partitions} $own.partitions" in template
    assert f'"segment.bytes" "{segment}"' in template
    kinds = {}
    for file in (REPOSITORY / "src/callback").glob("*.rs"):
        kinds |= dict(re.findall(r'Command \{\s*name: "([\w.]+)",\s*kind: "([\w-]+)"', file.read_text()))
    assert kinds, "no commands were found in src/callback"
    assert yaml.safe_load((CHART / "values.yaml").read_text())["strimzi"]["kinds"] == kinds
    topics = {one["spec"]["topicName"]: one["spec"] for one in of_kind(chart.objects("ci/strimzi-values.yaml"), "KafkaTopic")}
    assert sorted(topics) == ["IM.Groups.Full", "chat.dead-letter", "chat.group-disband", "chat.member-exit", "chat.unrecognized"]
    assert topics["chat.dead-letter"]["config"] == {"max.message.bytes": "9437184", "cleanup.policy": "delete"}
    assert topics["chat.member-exit"] == {"topicName": "chat.member-exit", "partitions": 6, "replicas": 3, "config": {"max.message.bytes": "9437184"}}
