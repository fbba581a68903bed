"""Every topology of ci/ and every example, by Helm 3 and 4, against the schemas of the oldest and the newest Kubernetes."""

import json
import pathlib
import subprocess

import kubernetes_validate
import pytest

import support
from support import HELMS, NEWEST, OLDEST, TOOLS, VALUES_FILES, relative

FILES = [relative(path) for path in VALUES_FILES]


def test_there_are_topologies_and_examples():
    assert len([name for name in FILES if name.startswith("ci/")]) >= 15
    assert len([name for name in FILES if name.startswith("examples/")]) >= 5


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("file", FILES)
def test_helm_lint_finds_nothing(chart, helm, version, file):
    done = chart.helm(helm, "lint", "--strict", chart.folder, "--values", chart.folder / file, "--kube-version", f"{version}.0")
    assert done.code == 0, done.out + done.err
    assert "0 chart(s) failed" in done.out


@pytest.mark.parametrize("helm", HELMS)
def test_helm_lint_finds_nothing_in_the_defaults(chart, helm):
    done = chart.helm(helm, "lint", "--strict", chart.folder)
    assert done.code == 0, done.out + done.err


@pytest.mark.parametrize("file", FILES)
def test_both_helms_render_the_same(chart, file):
    three, four = (chart.objects(file, helm=helm) for helm in ("helm3", "helm4"))
    order = lambda one: (one["kind"], one["metadata"]["name"])
    assert sorted(three, key=order) == sorted(four, key=order)


@pytest.fixture(scope="session")
def schemas(tmp_path_factory):
    """Schemas in kubeconform's form: of Kubernetes out of a Python package, of the operators out of their own definitions, unknown fields refused."""
    folder = tmp_path_factory.mktemp("schemas")
    source = pathlib.Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
    for version in (OLDEST, NEWEST):
        target = folder / f"v{version}.0-strict"
        target.mkdir()
        for file in (source / f"v{version}.0-local-strict").glob("*.json"):
            schema = json.loads(file.read_text().replace('"/api/_definitions.json#', '"_definitions.json#'))
            schema.pop("$id", None)
            (target / file.name).write_text(json.dumps(schema))
    for file in (TOOLS / "crds").glob("*/*.yaml"):
        for definition in support.load(file.read_text()):
            group, kind = definition["spec"]["group"], definition["spec"]["names"]["kind"].lower()
            for version in definition["spec"]["versions"]:
                schema = version["schema"]["openAPIV3Schema"]
                for standard in ("apiVersion", "kind"):
                    schema["properties"].setdefault(standard, {"type": "string"})
                close(schema)
                schema["properties"]["metadata"] = {"type": "object"}
                (folder / f"{group}_{kind}_{version['name']}.json").write_text(json.dumps(schema))
    for kind in ("kafkatopic", "kafkauser"):
        (folder / f"kafka.strimzi.io_{kind}_v1.json").write_text((support.HERE / "schemas" / f"{kind}_v1.json").read_text())
    return folder


def close(schema):
    if isinstance(schema, dict):
        if schema.get("properties") and "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema["additionalProperties"] = False
        if schema.pop("x-kubernetes-int-or-string", None):
            schema.pop("anyOf", None)
            schema["type"] = ["integer", "string"]
        schema = list(schema.values())
    for inner in schema if isinstance(schema, list) else ():
        close(inner)


def kubeconform(schemas, version, *paths):
    command = [TOOLS / "kubeconform-v0.8.0", "-strict", "-output", "json", "-summary", "-kubernetes-version", f"{version}.0"]
    for location in ("{{.NormalizedKubernetesVersion}}{{.StrictSuffix}}/{{.ResourceKind}}{{.KindSuffix}}.json", "{{.Group}}_{{.ResourceKind}}_{{.ResourceAPIVersion}}.json"):
        command += ["-schema-location", f"{schemas}/{location}"]
    done = subprocess.run([*command, *map(str, paths)], capture_output=True, text=True, timeout=300, check=False)
    found = json.loads(done.stdout)
    bad = [f"{pathlib.Path(one['filename']).name}: {one['kind']} {one['name']}: {one['msg']}" for one in found.get("resources") or []]
    return found["summary"], bad


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_all_objects_are_what_the_cluster_takes(chart, schemas, version, tmp_path):
    count = 0
    for file in FILES:
        done = chart.render(file, version=version)
        count += len(done.objects)
        (tmp_path / pathlib.Path(file).name).write_text(done.out)
    summary, bad = kubeconform(schemas, version, tmp_path)
    assert not bad, "\n".join(bad)
    assert (summary["valid"], summary["skipped"]) == (count, 0)


@pytest.mark.parametrize("kind, old, new", [
    ("StatefulSet", "serviceName:", "servicesName:"),
    ("ServiceMonitor", "endpoints:", "endpoint:"),
    ("PrometheusRule", "groups:", "group:"),
])
def test_the_schemas_refuse_a_misspelt_field(chart, schemas, kind, old, new, tmp_path):
    wrong = chart.render("ci/monitoring-values.yaml").out.replace(old, new)
    (tmp_path / "wrong.yaml").write_text(wrong)
    _, bad = kubeconform(schemas, NEWEST, tmp_path / "wrong.yaml")
    assert any(f" {kind} " in one for one in bad), bad


@pytest.mark.parametrize("kind, old, new", [
    ("HTTPRoute", "backendRefs:", "backends:"), ("Certificate", "issuerRef:", "issuer:"), ("KafkaTopic", "partitions:", "partition:"), ("KafkaUser", "operations:", "operation:"),
])
def test_the_operators_schemas_refuse_a_misspelt_field(chart, schemas, kind, old, new, tmp_path):
    file = {"HTTPRoute": "ci/gateway-values.yaml", "Certificate": "ci/certificate-values.yaml"}.get(kind, "ci/strimzi-values.yaml")
    (tmp_path / "wrong.yaml").write_text(chart.render(file).out.replace(old, new))
    _, bad = kubeconform(schemas, NEWEST, tmp_path / "wrong.yaml")
    assert any(f" {kind} " in one for one in bad), bad


def test_an_older_kubernetes_is_refused(chart):
    done = chart.render(support.MINIMAL, version="1.27")
    assert done.code != 0
    assert "incompatible with Kubernetes" in done.err


def test_the_readme_is_in_step(chart):
    for name in ("README.md", "helm-docs.out"):
        (chart.folder / name).unlink(missing_ok=True)
    subprocess.run([TOOLS / "helm-docs-v1.14.2", "--chart-search-root", chart.folder, "--sort-values-order", "file", "--output-file", "helm-docs.out"], check=True, capture_output=True, timeout=60)
    made = (chart.folder / "helm-docs.out").read_text()
    (chart.folder / "helm-docs.out").unlink()
    assert made == (support.CHART / "README.md").read_text(), "helm/chat-bridge/README.md is stale: tests/chart/target/tools/helm-docs-v1.14.2 -c helm/chat-bridge -s file"
