"""The `config` part of values.schema.json against the bridge and its page: the same keys, the same forms, the same names to choose from."""

import json
import re

import jsonschema
import pytest

import support
from support import CHART, HELMS, MINIMAL, REPOSITORY, nested
from test_config import MACHINE, read_by

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DEFINITIONS = {"definitions": SCHEMA["definitions"]}
CONFIG = SCHEMA["properties"]["config"]


def resolved(schema):
    """The schema itself, where it only names others."""
    if "$ref" in schema:
        return resolved(SCHEMA["definitions"][schema["$ref"].removeprefix("#/definitions/")])
    whole = {}
    for part in schema.get("allOf", ()):
        whole |= resolved(part)
    return whole | schema


def is_closed(schema):
    return isinstance(schema, dict) and resolved(schema).get("additionalProperties") is False


def leaves(schema, path=""):
    """Every key that is no section, as the page writes it: `apps[].sdk_app_id` in a list, `answers.*` where keys are free."""
    schema = resolved(schema)
    if is_closed(schema):
        for key, inner in schema["properties"].items():
            yield from leaves(inner, f"{path}.{key}".lstrip("."))
    elif is_closed(schema.get("items")):
        yield from leaves(schema["items"], f"{path}[]")
    elif is_closed(schema.get("additionalProperties")):
        yield from leaves(schema["additionalProperties"], f"{path}.*")
    else:
        yield path, schema


LEAVES = dict(leaves(CONFIG))


def written(value, path=""):
    """The keys that stand in a configuration, in the same form; those that the schema does not know too."""
    if path in LEAVES or not isinstance(value, (dict, list)):
        yield path
    elif isinstance(value, list):
        for inner in value:
            yield from written(inner, f"{path}[]")
    else:
        free = any(leaf.startswith(f"{path}.*") for leaf in LEAVES)
        for key, inner in value.items():
            yield from written(inner, f"{path}.{'*' if free else key}".lstrip("."))


def takes(config):
    return jsonschema.Draft7Validator(CONFIG | DEFINITIONS).is_valid(config)


def toml(config):
    """Dotted keys; a number that is whole is written so, as the chart does. JSON's texts, lists and empty maps are TOML's too."""
    def lines(value, path):
        if isinstance(value, dict) and (value or not path):
            for key, inner in value.items():
                yield from lines(inner, [*path, json.dumps(key)])
        else:
            yield f"{'.'.join(path)} = {json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value, ensure_ascii=False)}\n"

    apps = "".join("[[apps]]\n" + "".join(lines(app, [])) for app in config.get("apps", [{"sdk_app_id": 1}]))
    return "".join(lines({key: value for key, value in config.items() if key != "apps"}, [])) + apps


@pytest.fixture
def check(bridge, tmp_path):
    def run(config):
        (tmp_path / "config.toml").write_text(toml(config))
        return bridge("check", "--config", tmp_path / "config.toml")

    return run


def test_the_page_has_the_same_keys():
    page = (REPOSITORY / "docs/configuration.md").read_text()
    # Fewer cells has the table of librdkafka's properties.
    rows = [cells[0] for cells in (line.removeprefix("| `").split(" | ") for line in page.splitlines() if line.startswith("| `")) if len(cells) >= 4]
    assert len(rows) > 60
    assert sorted(row.rstrip("`") for row in rows) == sorted(LEAVES)


def test_the_defaults_are_taken(bridge):
    dumped = json.loads(bridge("config", "dump", "--format", "json").stdout)
    assert set(written(dumped)) <= LEAVES.keys() | {"apps"}
    jsonschema.Draft7Validator(CONFIG | DEFINITIONS).validate(dumped)


FILES = "/etc/chat-bridge/given"
# Every key but the instance's, which comes from the pod.
EVERY_KEY = {
    "http": {
        "listen": "[::]:8443", "body_max": 2097152, "body_timeout": "8s", "header_timeout": "9 seconds", "header_max": "64 kib", "idle_timeout": "1h 30m", "connections_max": 500, "bodies_max": "64MB",
        "trusted_proxies": ["10.0.0.0/8", "2001:db8::/32"], "tls": {"certificate": f"{FILES}/certificate", "private_key": f"{FILES}/key", "client_ca": f"{FILES}/certificate"},
    },
    "admin": {"listen": "0.0.0.0:9191", "connections_max": 8, "request_timeout": "5s", "stall_max": "20s", "token_file": f"{FILES}/token", "drain_ttl": "2h"},
    "apps": [{"sdk_app_id": 1400000000, "tokens_file": f"{FILES}/token", "sources": ["203.0.113.0/24"]}],
    "journal": {"dir": "/var/lib/chat-bridge", "size_max": "4GiB", "segment_size": "32MiB", "free_space_min": "128MiB", "answer_max": "1200ms", "sync_interval_min": "0s", "retention": "1day"},
    "kafka": {
        "bootstrap_servers": "k-1:9092,k-2:9092", "delivery": "exactly-once", "positions_topic": "im.positions", "commit_interval": "200ms", "commit_records": 5000, "transaction_timeout": "1min",
        "properties": {"linger.ms": 20, "socket.keepalive.enable": True, "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": "bridge"}, "secret_files": {"sasl.password": f"{FILES}/token"},
    },
    "topics": {
        "prefix": "im.", "unrecognized": "im.other", "dead_letter": "im.dead", "discard": ["Group.CallbackAfterSendMsg"], "create": True, "partitions": 12, "replication_factor": 2, "max_message": "8MiB",
        "names": {"Group.CallbackAfterGroupFull": "im.groups.full"}, "config": {"im.groups.full": {"partitions": 3, "retention.ms": 31536000000, "cleanup.policy": "delete", "preallocate": False}},
    },
    "events": {"mode": "binary"},
    "answers": {"Group.CallbackBeforeSendMsg": {"error_code": 10100, "error_info": "closed"}},
    "shutdown": {"lame_duck": "6s", "drain_max": "15s"},
    "log": {"level": "debug", "format": "text"},
    "tracing": {
        "otlp_endpoint": "http://collector:4317", "otlp_protocol": "http", "sample_ratio": 0.25, "otlp_timeout": "5s", "queue_max": 4096, "headers_file": f"{FILES}/headers", "ca_file": f"{FILES}/certificate",
        "service_name": "bridge",
    },
}


@pytest.mark.parametrize("helm", HELMS)
def test_every_key_is_one_of_the_bridges(chart, bridge, pem, helm, tmp_path):
    objects = chart.objects(values={"config": EVERY_KEY}, helm=helm)
    spec = support.the(objects, "StatefulSet")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    (tmp_path / "given").mkdir()
    for name, content in (pem | {"token": "a-token\n", "headers": "Authorization: Bearer a-token\n"}).items():
        (tmp_path / "given" / name).write_text(content)
    done = read_by(bridge, spec, container, objects, pem, tmp_path, "check")
    said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip() and not line.startswith(MACHINE)]
    assert (done.returncode, said) == (0, ["no problems"])
    dumped = json.loads(read_by(bridge, spec, container, objects, pem, tmp_path, "config", "dump", "--format", "json").stdout)
    assert sorted(set(written(dumped))) == sorted(LEAVES)
    assert dumped["topics"]["config"]["im.groups.full"]["retention.ms"] == "31536000000"


def nulls():
    """Null for every key, for every section, and below the keys that are free."""
    kafka = {"bootstrap_servers": "k:9092", "delivery": "exactly-once"}
    keys = {name: dict.fromkeys(section["properties"]) for name, section in CONFIG["properties"].items() if "properties" in section}
    keys["kafka"] |= kafka | {"properties": {"linger.ms": None}}
    keys["topics"] |= {"config": {"chat-bridge.positions": None, "chat.group-full": {"partitions": None, "retention.ms": None}}, "names": {"A.B": None}}
    yield keys | {"apps": [{"sdk_app_id": 1400000000, "tokens_file": None, "sources": None}], "answers": {"Group.CallbackBeforeSendMsg": None}}
    yield dict.fromkeys(CONFIG["properties"]) | {"apps": [{"sdk_app_id": 1400000000}], "kafka": kafka}


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("config", nulls(), ids=["keys", "sections"])
def test_null_is_the_default(chart, bridge, helm, config, tmp_path):
    def dump(text):
        (tmp_path / "config.toml").write_text(text)
        done = bridge("config", "dump", "--format", "json", "--config", tmp_path / "config.toml", environment={"CHAT_BRIDGE_KAFKA__INSTANCE": "0"})
        assert done.returncode == 0, done.stderr
        dumped = json.loads(done.stdout)
        # Settings of a topic that are none.
        dumped["topics"]["config"].pop("chat.group-full", None)
        return dumped

    more = {"secrets": {"allowUnsigned": True}, "terminationGracePeriodSeconds": 60, "networkPolicy": {"enabled": True}, "strimzi": {"enabled": True, "cluster": "c"}}
    objects = chart.objects(values={"config": config} | more, helm=helm)
    assert dump(support.config(objects)) == dump(toml({"apps": [{"sdk_app_id": 1400000000}], "kafka": {"bootstrap_servers": "k:9092", "delivery": "exactly-once"}}))
    topics = [one["spec"] for one in support.of_kind(objects, "KafkaTopic")]
    assert {(topic["partitions"], topic["replicas"]) for topic in topics} == {(6, 3), (32, 3)}


CHOICES = {key: [one for one in schema["enum"] if one is not None] for key, schema in LEAVES.items() if "enum" in schema}


def test_there_are_choices():
    assert sorted(CHOICES) == ["events.mode", "kafka.delivery", "log.format", "log.level", "tracing.otlp_protocol"]


@pytest.mark.parametrize("key", CHOICES)
def test_the_choices_are_the_bridges(check, key):
    for choice in CHOICES[key]:
        config = nested(key.split("."), choice)
        # With exactly-once it must be known; a pod has it from its ordinal.
        config.setdefault("kafka", {})["instance"] = "0"
        assert takes(config)
        assert check(config).returncode == 0, choice
    other = nested(key.split("."), "no-such")
    assert not takes(other)
    done = check(other)
    assert done.returncode == 78
    told = re.search(rf"{re.escape(key)}: expected one of (.*), found \"no-such\"", done.stderr + done.stdout).group(1)
    assert sorted(re.findall(r'"([^"]+)"', told)) == sorted(CHOICES[key])


MOST = 2**53 - 1
# A key, what schema and bridge both take, and what both refuse.
FORMS = [
    ("http.body_max", [1048576, 1048576.0, "1048576", "+1048576", "1MiB", "1mib", "2 MB", "2m", "2M", "1.5MiB", "2.MB", ".5MiB", "1024K", "0.001GiB", "3000000b"],
     ["", "MiB", "1MiBs", "5min", "1 000 kB", "1.5", "-1MiB", "1e6", "1,5MiB", "5 ", " 5MiB", 1048576.5, -1, True, ["1MiB"], {"MiB": 1}]),
    ("journal.size_max", [MOST, "1EiB", "1tb", "1PiB"], []),
    ("journal.retention", ["0", "0s", "0.0s", "1ns", "3 h", "1h30m", "1h 30m", " 1h ", "1.5h", "1. 5h", "1 0s", *(f"1{unit}" for unit in re.search(r"\(([a-zµM|]{40,})\)", SCHEMA["definitions"]["period"]["pattern"]).group(1).split("|") if unit[0] != "y")],
     ["", " ", "5", "h", ".5s", "1.s", "5MiB", "-5s", "5S", "5Min", "1h,30m", "1h and 30m", 0, 5, 5.5, False, ["1h"]]),
    *[(key, ["500ms"], ["0s", "0", "0.0s", "00ms 0s", "soon"]) for key, schema in LEAVES.items() if schema.get("pattern") == "[1-9]" and key != "kafka.transaction_timeout"],
    ("kafka.transaction_timeout", ["5s", "15min"], ["0s", "soon"]),
    ("shutdown.lame_duck", ["0s", "500ms"], ["5"]),
    ("shutdown.drain_max", ["0s"], ["5"]),
    ("journal.sync_interval_min", ["0s"], [0]),
    ("http.listen", ["0.0.0.0:8080", "127.0.0.1:0", "255.249.199.99:65535", "0.0.0.0:08080", "[::]:8080", "[::1]:65000", "[fe80::1%1]:80", "[::ffff:1.2.3.4]:80"],
     ["", "8080", ":8080", "localhost:8080", "0.0.0.0", "256.0.0.1:80", "01.0.0.1:80", "1.2.3:80", "0.0.0.0:65536", "0.0.0.0:99999", "::1:8080", "[1.2.3.4]:80", "[::]", "0.0.0.0:http", "0.0.0.0:8080 ", 8080]),
    ("http.trusted_proxies", [[], ["10.0.0.0/8"], ["10.0.0.1/32", "::/0", "2001:db8::/128"], ["010.0.0.0/08"]],
     ["10.0.0.0/8", ["10.0.0.1"], ["10.0.0.0/33"], ["::/129"], ["10.0.0/8"], ["10.0.0.256/8"], [8], ["10.0.0.0/8", ""], ["10.0.0.0/255.0.0.0"]]),
    ("http.connections_max", [1, 4294967295, 5.0], [0, 4294967296, -1, 1.5, "5", True]),
    ("admin.connections_max", [1, 4294967295], [0, "64"]),
    ("kafka.commit_records", [1, 4294967295], [0, 4294967296, "1"]),
    ("kafka.bootstrap_servers", ["k", "k:9092", "a:1,b:2", " a:1 , b:2 "], [",", "a,", ",a", "a,,b", " , a", 9092, ["k:9092"]]),
    ("kafka.instance", ["0", "a-b_c!", "~" * 100], ["", "a b", "é", "~" * 101, 0]),
    ("kafka.positions_topic", ["a", "A.b_c-9", "x" * 249, "..."], ["", ".", "..", "a b", "a/b", "x" * 250, 5]),
    ("kafka.properties", [{}, {"linger.ms": 5}, {"linger.ms": 5.0}, {"linger.ms": "5"}, {"socket.keepalive.enable": True}], [{"linger.ms": [5]}, {"linger.ms": {"ms": 5}}, {"linger": {"ms": 5}}, "linger.ms=5", [5]]),
    ("kafka.secret_files", [{}], [{"sasl.password": ""}, {"sasl.password": 5}, {"sasl.password": {"existingSecret": "a"}}]),
    ("topics.prefix", ["", "im-9_a.", "x" * 200], ["a b", "a/", "x" * 201, 5]),
    ("topics.unrecognized", ["other"], ["", "..", "a b", True]),
    ("topics.dead_letter", ["other"], ["", ".", "a/b", 1]),
    ("topics.discard", [[], ["A.B"]], ["A.B", [1], {"A.B": True}]),
    ("topics.create", [True, False], ["yes", "true", 1]),
    ("topics.partitions", [1, 65535], [0, 65536, "6", 1.5]),
    ("topics.replication_factor", [1, 65535], [0, 65536, "3"]),
    ("topics.max_message", ["1000B", "900 MB", 1000], ["9MiBs", -1]),
    ("topics.names", [{}, {"A.B": "x"}], [{"A.B": "a b"}, {"A.B": 5}, {"A.B": ["x"]}, {"A": {"B": "x"}}]),
    ("topics.config", [{}, {"x": {}}, {"x": {"partitions": 3, "retention.ms": MOST, "a": "b", "c": 0.5, "d": False}}, {"x": {"partitions": "3"}}, {"x": {"partitions": "+003"}}, {"x": {"retention.ms": "9223372036854775807"}}],
     [{"x": {"partitions": 0}}, {"x": {"partitions": 65536}}, {"x": {"partitions": "0"}}, {"x": {"partitions": "many"}}, {"x": {"partitions": True}}, {"x": {"a": ["b"]}}, {"x": {"retention": {"ms": 5}}}, {"x": 5}]),
    ("answers", [{}, *({"Group.CallbackBeforeX": answer} for answer in ({"error_code": 0}, {"error_code": -MOST, "error_info": ""}, {"error_code": MOST}))],
     [{"Group.CallbackBeforeX": answer} for answer in ({}, {"error_info": "x"}, {"error_code": "1"}, {"error_code": 1.5}, {"error_code": 1, "error_info": 5}, {"error_code": 1, "error_text": "x"}, 5, [1])]),
    ("apps", [[{"sdk_app_id": 1400000000}], [{"sdk_app_id": MOST}], [{"sdk_app_id": 5.0, "sources": ["10.0.0.0/8"]}]],
     [[{}], [{"sdk_app_id": 0}], [{"sdk_app_id": -1}], [{"sdk_app_id": "5"}], [{"sdk_app_id": 5, "sources": []}], [{"sdk_app_id": 5, "sources": ["here"]}], [{"sdk_app_id": 5, "tokens": "x"}], [{"sdk_app_id": 5, "tokens_file": ""}]]),
    *[(key, [], ["", 5]) for key in ("journal.dir", "admin.token_file", "tracing.headers_file", "tracing.ca_file")],
    ("http.tls", [], [{}, {"certificate": "/x"}, {"private_key": "/x"}, {"certificate": "/x", "private_key": "/y", "ca": "/z"}, True]),
    ("tracing.otlp_endpoint", ["http://c:4317", "https://c", "HTTP://c/otlp/a@b", "https://[::1]:4318/"], ["", "c:4317", "grpc://c:4317", "http://", "http://:4317", "http://u:p@c", "http://c?", "http://c/#", "http://c /", 4317]),
    ("tracing.sample_ratio", [0, 1, 1.0, 0.5, 1e-7], [-0.1, 1.1, 2, "0.5", True]),
    ("tracing.queue_max", [1, 1000000], [0, 1000001, "8192"]),
    ("tracing.service_name", ["a b"], ["", "  ", 5]),
    *[(f"{section}.nosuch", [], [1, None]) for section, schema in CONFIG["properties"].items() if "properties" in schema],
    ("nosuch.x", [], [1]),
]


@pytest.mark.parametrize("key, right, wrong", [pytest.param(*form, id=f"{number}-{form[0]}") for number, form in enumerate(FORMS)])
def test_schema_and_bridge_take_the_same(check, key, right, wrong):
    for value in right:
        config = nested(key.split("."), value)
        # A limit of its own must not be in the way of others'.
        if key == "http.body_max":
            config |= {"topics": {"max_message": "64MiB"}}
        done = check(config)
        assert (takes(config), done.returncode) == (True, 0), f"{key} = {value!r}: {done.stderr}{done.stdout}"
    for value in wrong:
        config = nested(key.split("."), value)
        assert not takes(config), f"{key} = {value!r}"
        # TOML has no null.
        assert value is None or check(config).returncode == 78, f"{key} = {value!r}"


def test_every_form_is_tried():
    tried = {key for key, _, _ in FORMS} | CHOICES.keys()
    schemas = [LEAVES[key] for key in tried if key in LEAVES]
    for key, schema in LEAVES.items():
        inside = re.split(r"\[\]|\.\*|(?<=http\.tls)\.", key)[0]
        assert inside in tried or schema in schemas, key


# As people write them.
MISTAKES = {
    "config.kafka.bootstrapServers=x": "bootstrapServers", "config.nosuch.x=1": "nosuch", "config.http.body_max=5min": "body_max", "config.kafka.delivery=exactlyonce": "delivery", "config.topics.create=yes": "create",
    "config.log=debug": "log", "config.apps[0].sdk_app_id=x": "sdk_app_id", "config.apps[0].token=x": "token", "config.topics.config.x.retention\\.ms=9223372036854775807": "retention", "config=null": "config",
    "secrets=null": "secrets", "secrets.adminToken=null": "adminToken",
}


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("mistake, name", MISTAKES.items())
def test_a_mistake_is_refused_before_anything_is_installed(chart, helm, mistake, name):
    done = chart.render(MINIMAL, helm=helm, more=["--set", mistake])
    assert done.code != 0
    assert "don't meet the specifications of the schema" in done.err and name in done.err, done.err
