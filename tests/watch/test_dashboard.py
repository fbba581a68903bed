"""The dashboard, without anything that runs. The rules are those of grafana's dashboard-linter that have a reason here."""

import re

import promql_parser
import pytest

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
    assert [variable["name"] for variable in variables] == ["datasource", *dashboards.VARIABLES, "topic"]
    for variable in variables[1:]:
        assert variable["refresh"] == 2 and variable["datasource"] == SOURCE and variable["allValue"] == ".*" and variable["multi"], variable["name"]
        query = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
        assert query and query[2] == variable["name"]
        promql_parser.parse(dashboards.query(query[1]))
        before = dashboards.VARIABLES[: dashboards.VARIABLES.index(variable["name"])] if variable["name"] != "topic" else dashboards.VARIABLES
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
    documented = rules.documented()
    for name, selector in rules.selectors(query):
        assert rules.family(name) in documented, f"{name} does not exist"
        for variable in dashboards.VARIABLES:
            assert f'{variable}=~' in selector, f"{name} leaves out ${variable}"
    # The service levels' windows are their own; all else follows the picture.
    for window in re.findall(r"\[([^\]]+)\]", re.sub(r'"[^"]*"', "", target["expr"])):
        allowed = {"$__range"} if panel["type"] == "stat" else {"$__rate_interval", "1h"} if panel["title"] == "Budgets burn" else {"$__rate_interval"}
        assert window in allowed, window
    counted(promql_parser.parse(query), documented, panel)


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
