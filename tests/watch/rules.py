"""The rules as they are shipped: read, taken apart, and made faster for live tests."""

import copy
import re
from dataclasses import dataclass
from pathlib import Path

import promql_parser
import yaml

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "helm/chat-bridge/rules"
RUNBOOKS = ROOT / "docs/runbooks"
RUNBOOK_URL = "https://github.com/chat-bridge/chat-bridge/blob/main/docs/runbooks/"

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DURATION = re.compile(r"(\d+)([smhd])")


@dataclass(frozen=True)
class Rule:
    """An alert or a recorded series, with the file that it stands in."""

    file: Path
    group: str
    body: dict

    @property
    def alert(self):
        return self.body.get("alert")

    @property
    def expr(self):
        return self.body["expr"]

    @property
    def variant(self):
        """What tells rules of one alert apart, as the tests of promtool name it."""
        labels = self.body["labels"]
        return (self.alert, labels["severity"], labels.get("window"))


def files():
    return sorted(RULES.rglob("*.yaml"))


def read(paths=None):
    out = []
    for path in paths or files():
        for group in yaml.safe_load(path.read_text())["groups"]:
            out += [Rule(path, group["name"], body) for body in group["rules"]]
    return out


def alerts(paths=None):
    return [rule for rule in read(paths) if rule.alert]


def recorded(paths=None):
    return {rule.body["record"] for rule in read(paths) if not rule.alert}


def _walk(node, found):
    """Every selector of a parsed query. The tree has no walk that shows where a selector stands, so its fields are followed."""
    if isinstance(node, promql_parser.VectorSelector):
        found.append(node)
        return
    for field in ("expr", "lhs", "rhs", "vector_selector", "param"):
        child = getattr(node, field, None)
        if child is not None and not isinstance(child, (str, int, float)):
            _walk(child, found)
    for child in getattr(node, "args", None) or []:
        _walk(child, found)


def selectors(query):
    """The selectors of a query as `{__name__="...", ...}`, and the names in them."""
    found = []
    _walk(promql_parser.parse(query), found)
    return [(selector.name, re.sub(r"\s+offset\s+\S+$", "", selector.prettify())) for selector in found]


def family(name):
    """The metric that a series belongs to."""
    return re.sub(r"_(bucket|sum|count)$", "", name)


def documented():
    """The metrics of docs/metrics.md, which a test of the program holds equal to its registry: name to type."""
    rows = re.findall(r"^\| `([a-z0-9_]+)` \| (\w+) \|", (ROOT / "docs/metrics.md").read_text(), re.M)
    assert len(rows) > 50, "the table of metrics is there"
    return dict(rows)


def seconds(text):
    return sum(int(number) * UNITS[unit] for number, unit in DURATION.findall(text))


def faster(factor, paths, longest="1h"):
    """The rules of these files with all times divided: windows, `for`, `keep_firing_for`, and numbers written `5 * 60`. Bounds of histograms stay.

    Burn rates over more than `longest` are left out: divided they would outlast what they are to see.
    """

    def shorter(text):
        return f"{max(1, round(seconds(text) / factor))}s"

    def scaled(expr):
        expr = re.sub(r"\[(\d+[smhd])\]", lambda match: f"[{shorter(match[1])}]", expr)
        return re.sub(r"\b(\d+)((?: \* 60)+)", lambda match: str(int(match[1]) * 60 ** match[2].count("60") / factor), expr)

    groups = []
    for path in paths:
        for group in yaml.safe_load(path.read_text())["groups"]:
            group = copy.deepcopy(group)
            group["rules"] = [rule for rule in group["rules"] if seconds(rule.get("labels", {}).get("window", "0s")) <= seconds(longest)]
            for rule in group["rules"]:
                rule["expr"] = scaled(rule["expr"])
                for key in ("for", "keep_firing_for"):
                    if key in rule:
                        rule[key] = shorter(rule[key])
            groups.append(group)
    return {"groups": groups}
