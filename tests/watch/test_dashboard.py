"""The dashboard, without anything that runs. The rules are those of grafana's dashboard-linter that have a reason here."""

import re
import subprocess

import promql_parser
import pytest
import yaml

import dashboard as dashboards
import rules

DASHBOARD = dashboards.read()
PANELS = list(dashboards.panels(DASHBOARD))
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
#: Grafana's names of units.
UNITS = {"none", "s", "bytes", "Bps", "percentunit", "reqps", "cps"}
TARGETS = [(panel, target) for panel in PANELS for target in panel["targets"]]


def by_title(panel):
    return panel["title"]


def by_target(value):
    return f"{value[0]['title']}-{value[1]['refId']}"


def test_the_dashboard_is_as_it_is_shipped():
    assert DASHBOARD["editable"] is False
    assert DASHBOARD["schemaVersion"] == 39
    assert DASHBOARD["uid"] == "chat-bridge" and DASHBOARD["title"] == "chat-bridge"
    assert "id" not in DASHBOARD, "it would be another dashboard's in another Grafana"
    assert any(rules.RUNBOOK_URL in link["url"] for link in DASHBOARD["links"])
    assert len(dashboards.DASHBOARD.read_bytes()) < 900_000, "it fits into a ConfigMap"


def test_rows_are_there_in_order():
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == [
        "Service levels and state",
        "Callbacks",
        "Refusals and authentication",
        "Journal",
        "Delivery to Kafka",
        "Exactly-once",
        "Instances beside each other",
        "Resources",
        "Rollouts",
    ]


def test_variables_reload_with_the_time_and_follow_each_other():
    variables = DASHBOARD["templating"]["list"]
    assert [variable["name"] for variable in variables] == ["datasource", *dashboards.VARIABLES, "topic", "command"]
    for variable in variables[1:]:
        assert variable["refresh"] == 2 and variable["datasource"] == SOURCE and variable["allValue"] == ".*" and variable["multi"], variable["name"]
        query = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
        assert query and query[2] == variable["name"]
        promql_parser.parse(dashboards.query(query[1]))
        before = dashboards.VARIABLES[: dashboards.VARIABLES.index(variable["name"])] if variable["name"] in dashboards.VARIABLES else dashboards.VARIABLES
        for name in before:
            assert f'{name}=~"${name}"' in query[1], variable["name"]


def test_panels_stand_beside_each_other():
    taken = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"], "two panels in one place"
    identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
    titles = [panel["title"] for panel in DASHBOARD["panels"]]
    assert len(set(identifiers)) == len(identifiers) and len(set(titles)) == len(titles)


@pytest.mark.parametrize("panel", PANELS, ids=by_title)
def test_a_panel_explains_itself(panel):
    assert panel["title"] and panel["description"].endswith((".", "?"))
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["datasource"] == SOURCE
    assert panel["targets"] and len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


@pytest.mark.parametrize("value", TARGETS, ids=by_target)
def test_a_query_is_sound(value):
    panel, target = value
    assert target["datasource"] == SOURCE
    query = dashboards.query(target["expr"])
    documented = rules.documented() | {name: kind for name, (kind, _) in dashboards.FOREIGN.items()}
    selectors = rules.selectors(query)
    for name, selector in selectors:
        assert rules.family(name) in documented, f"{name} does not exist"
        for variable in dashboards.FOREIGN.get(name, (None, dashboards.VARIABLES))[1]:
            assert f'{variable}=~' in selector, f"{name} leaves out ${variable}"
    assert {name for name, _ in selectors} - set(dashboards.FOREIGN), "what others expose is asked for our pods alone"
    # The service levels' windows are their own; all else follows the picture.
    for window in re.findall(r"\[([^\]]+)\]", re.sub(r'"[^"]*"', "", target["expr"])):
        allowed = {"$__range"} if panel["type"] == "stat" else {"$__rate_interval", "1h"} if panel["title"] == "Budgets burn" else {"$__rate_interval"}
        assert window in allowed, window
    counted(promql_parser.parse(query), documented, panel)


def test_time_told_in_whole_seconds_is_looked_at_over_minutes():
    (panel,) = [panel for panel in PANELS if "process_cpu_seconds_total" in panel["targets"][0]["expr"]]
    # Grafana's $__rate_interval is no shorter than the panel's interval: over 5 minutes a second more or less is 0.3 % of a processor.
    assert panel["interval"] == "5m"


#: Two pods of a release, and another's pod and volume beside them: what a cluster's exporters say of them.
CLUSTER = """
chat_bridge_build_info{namespace="im", job="chat-bridge", pod="bridge-0", instance="10.0.0.1:9090", version="1"} 1x20
chat_bridge_build_info{namespace="im", job="chat-bridge", pod="bridge-1", instance="10.0.0.2:9090", version="1"} 1x20
process_resident_memory_bytes{namespace="im", job="chat-bridge", pod="bridge-0", instance="10.0.0.1:9090"} 100x20
process_resident_memory_bytes{namespace="im", job="chat-bridge", pod="bridge-1", instance="10.0.0.2:9090"} 200x20
kube_pod_container_resource_limits{namespace="im", job="kube-state-metrics", pod="bridge-0", container="bridge", resource="memory", unit="byte"} 400x20
kube_pod_container_resource_limits{namespace="im", job="kube-state-metrics", pod="bridge-1", container="bridge", resource="cpu", unit="core"} 2x20
kube_pod_container_resource_limits{namespace="im", job="kube-state-metrics", pod="bridge-0", container="sidecar", resource="memory", unit="byte"} 50x20
kube_pod_container_resource_limits{namespace="im", job="kube-state-metrics", pod="other-0", container="bridge", resource="memory", unit="byte"} 400x20
container_memory_working_set_bytes{namespace="im", job="kubelet", instance="node", pod="bridge-0", container="bridge"} 300x20
container_memory_working_set_bytes{namespace="im", job="kubelet", instance="node", pod="bridge-0", container=""} 350x20
container_memory_working_set_bytes{namespace="im", job="kubelet", instance="node", pod="other-0", container="bridge"} 350x20
container_cpu_cfs_periods_total{namespace="im", job="kubelet", instance="node", pod="bridge-0", container="bridge"} 0+600x20
container_cpu_cfs_throttled_periods_total{namespace="im", job="kubelet", instance="node", pod="bridge-0", container="bridge"} 0+150x20
container_cpu_cfs_periods_total{namespace="im", job="kubelet", instance="node", pod="other-0", container="bridge"} 0+600x20
container_cpu_cfs_throttled_periods_total{namespace="im", job="kubelet", instance="node", pod="other-0", container="bridge"} 0+600x20
kubelet_volume_stats_used_bytes{namespace="im", job="kubelet", instance="node", persistentvolumeclaim="data-bridge-0"} 80x20
kubelet_volume_stats_capacity_bytes{namespace="im", job="kubelet", instance="node", persistentvolumeclaim="data-bridge-0"} 100x20
kubelet_volume_stats_used_bytes{namespace="im", job="kubelet", instance="node", persistentvolumeclaim="data-other-0"} 90x20
kubelet_volume_stats_capacity_bytes{namespace="im", job="kubelet", instance="node", persistentvolumeclaim="data-other-0"} 100x20
kube_pod_spec_volumes_persistentvolumeclaims_info{namespace="im", job="kube-state-metrics", pod="bridge-0", volume="data", persistentvolumeclaim="data-bridge-0"} 1x20
kube_pod_spec_volumes_persistentvolumeclaims_info{namespace="im", job="kube-state-metrics", pod="other-0", volume="data", persistentvolumeclaim="data-other-0"} 1x20
"""
#: What the panels make of that. The second pod has no limit of memory, and so no line.
OF_A_CLUSTER = {
    ("Memory, of the limit", "A"): ('{namespace="im", pod="bridge-0"}', 0.25),
    ("Memory, of the limit", "B"): ('{namespace="im", pod="bridge-0"}', 0.75),
    ("Throttled", "A"): ('{namespace="im", pod="bridge-0"}', 0.25),
    ("Volume in use", "A"): ('{namespace="im", persistentvolumeclaim="data-bridge-0"}', 0.8),
}


def test_what_a_cluster_exposes_is_found_for_our_pods_alone(promtool, tmp_path):
    queries = {(title, reference): query for title, reference, query in dashboards.queries(DASHBOARD, rate_interval="5m") if dashboards.is_foreign(query)}
    assert queries.keys() == OF_A_CLUSTER.keys()
    series = [dict(zip(("series", "values"), line.rsplit(" ", 1), strict=True)) for line in CLUSTER.strip().splitlines()]
    assert set(dashboards.FOREIGN) <= {line["series"].split("{")[0] for line in series}
    checks = [{"expr": query, "eval_time": "10m", "exp_samples": [dict(zip(("labels", "value"), OF_A_CLUSTER[key], strict=True))]} for key, query in queries.items()]
    case = tmp_path / "cluster.yaml"
    case.write_text(yaml.safe_dump({"rule_files": [], "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": checks}]}))
    done = subprocess.run([promtool, "test", "rules", case], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def counted(node, documented, panel, rated=False):
    """A counter that is drawn over time is asked for its pace, but in the two panels that show what it has come to."""
    if isinstance(node, promql_parser.VectorSelector):
        counter = documented[rules.family(node.name)] in ("counter", "histogram")
        if panel["title"] not in ("The books", "Found at the start, or since"):
            assert rated == counter, f"{node.name}: {'a counter without' if counter else 'no counter, and'} rate or increase"
        return
    if isinstance(node, promql_parser.MatrixSelector):
        counted(node.vector_selector, documented, panel, rated)
        return
    if isinstance(node, promql_parser.Call):
        for child in node.args:
            counted(child, documented, panel, node.func.name in ("rate", "increase"))
        return
    for field in ("expr", "lhs", "rhs"):
        if getattr(node, field, None) is not None:
            counted(getattr(node, field), documented, panel, rated)
