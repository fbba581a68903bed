"""The dashboard as it is shipped: its panels and their queries."""

import json
import re

from rules import ROOT

DASHBOARD = ROOT / "helm/chat-bridge/dashboards/chat-bridge.json"

VARIABLES = ("cluster", "namespace", "job", "pod", "instance")
#: What the bridge does not expose and a cluster does (cAdvisor, the kubelet, kube-state-metrics): type, and which of the variables it bears as labels.
FOREIGN = {
    "container_cpu_cfs_periods_total": ("counter", ("cluster", "namespace", "pod")),
    "container_cpu_cfs_throttled_periods_total": ("counter", ("cluster", "namespace", "pod")),
    "container_memory_working_set_bytes": ("gauge", ("cluster", "namespace", "pod")),
    "kube_pod_container_resource_limits": ("gauge", ("cluster", "namespace", "pod")),
    "kube_pod_spec_volumes_persistentvolumeclaims_info": ("gauge", ("cluster", "namespace", "pod")),
    "kubelet_volume_stats_capacity_bytes": ("gauge", ("cluster", "namespace")),
    "kubelet_volume_stats_used_bytes": ("gauge", ("cluster", "namespace")),
}


def read():
    return json.loads(DASHBOARD.read_text())


def panels(dashboard):
    """All panels but rows, those in rows that are folded too."""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield from panel["panels"]
        else:
            yield panel


def query(expr, rate_interval="15s", length="2m", chosen=None):
    """What Grafana would send: variables replaced, `All` where nothing is chosen."""
    chosen = chosen or {}
    expr = expr.replace("$__rate_interval", rate_interval).replace("$__range", length).replace("$__interval", rate_interval)
    expr = re.sub(r"\$(cluster|namespace|job|pod|instance|topic|command)\b", lambda match: chosen.get(match[1], ".*"), expr)
    assert "$" not in expr, f"a variable that Grafana does not know: {expr}"
    return expr


def queries(dashboard, **how):
    """Every panel's queries: title, reference, query."""
    return [(panel["title"], target["refId"], query(target["expr"], **how)) for panel in panels(dashboard) for target in panel["targets"]]


def is_foreign(query):
    """Whether it needs what only a cluster exposes."""
    return any(name in query for name in FOREIGN)
