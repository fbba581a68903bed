"""Draws the dashboard as Grafana would lay it out, from real data: two bridges under load, an outage of Kafka, a burst of forged callbacks.

It draws what the dashboard's JSON says: place, kind, unit, limits, colours, queries. It is no Grafana: heat maps have no tooltips and tables no sorting.
"""

import math
import re
import sys
import tempfile
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.colors import LogNorm
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import FuncFormatter, MaxNLocator

import dashboard as dashboards
import rules
from bed import Bed, Bridge, Kafka, Prometheus, eventually

BACKGROUND, PANEL, TEXT, FAINT, GRID = "#111217", "#181b1f", "#d8d9da", "#8e8e93", "#2c3235"
PALETTE = ["#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#96d98d", "#ffb357", "#ca95e5", "#fade2a", "#ff7383"]
COLOURS = {"green": "#56a64b", "orange": "#e0842e", "red": "#d44a3a", "blue": "#5794f2", "yellow": "#f2cc0c", "transparent": "none"}
STEP = 2.0
#: Grafana's cell: width and height in inches.
CELL = (0.72, 0.34)


def human(value, unit):
    if value is None or math.isnan(value):
        return "–"
    if unit == "percentunit":
        return f"{value * 100:.4g} %"
    if unit == "s":
        for limit, factor, name in ((1e-3, 1e6, "µs"), (1, 1e3, "ms"), (120, 1, "s"), (7200, 1 / 60, "min")):
            if abs(value) < limit:
                return "0 s" if value == 0 else f"{value * factor:.3g} {name}"
        return f"{value / 3600:.3g} h" if abs(value) < 172_800 else f"{value / 86_400:.3g} d"
    suffix = {"reqps": "/s", "cps": "/s", "Bps": "/s"}.get(unit, "")
    if unit in ("bytes", "Bps"):
        for factor, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
            if abs(value) >= factor:
                return f"{value / factor:.3g} {name}{suffix}"
        return f"{value:.3g} B{suffix}"
    for factor, name in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {name}{suffix}"
    return f"{value:.3g}{suffix}"


def legend(labels, form):
    # A label that is not there is empty, as in Grafana.
    form = re.sub(r"{{(\w+)}}", lambda match: labels.get(match[1], ""), form).strip()
    return form or ", ".join(labels.values())


def overridden(panel, name):
    found = {}
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"]["options"] == name:
            found |= {each["id"]: each["value"] for each in override["properties"]}
    return found


def crossed(panel, value):
    """The colour of the threshold that a value has crossed."""
    colour = "green"
    for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            colour = step["color"]
    return COLOURS[colour]


def draw_stat(axes, panel, prometheus, span, how):
    found = prometheus.query(dashboards.query(panel["targets"][0]["expr"], **how), span[1])
    defaults = panel["fieldConfig"]["defaults"]
    axes.set_axis_off()
    if not found or math.isnan(found[0][1]):
        axes.text(0.5, 0.42, defaults["noValue"], color=FAINT, ha="center", va="center", fontsize=13, transform=axes.transAxes)
        return
    value = found[0][1]
    axes.add_patch(FancyBboxPatch((0, 0), 1, 1, boxstyle="round,pad=0,rounding_size=0.02", transform=axes.transAxes, color=crossed(panel, value), alpha=0.9, lw=0))
    digits = defaults.get("decimals")
    text = f"{value * 100:.{digits}f} %" if defaults["unit"] == "percentunit" and digits is not None else human(value, defaults["unit"])
    axes.text(0.5, 0.48, text, color="white", ha="center", va="center", fontsize=17, fontweight="bold", transform=axes.transAxes)


def draw_series(axes, panel, prometheus, span, how):
    defaults = panel["fieldConfig"]["defaults"]
    custom = defaults["custom"]
    lines, peak = [], 0.0
    for target in panel["targets"]:
        found = prometheus.range(dashboards.query(target["expr"], **how), *span, STEP)
        for labels, points in sorted(found, key=lambda series: str(series[0])):
            name = legend(labels, target["legendFormat"])
            by_time = {round((at - span[0]) / STEP): value for at, value in points}
            steps = round((span[1] - span[0]) / STEP) + 1
            lines.append((name, [by_time.get(step, math.nan) for step in range(steps)]))
    times = [step * STEP for step in range(len(lines[0][1]))] if lines else []
    base = [0.0] * len(times)
    for index, (name, values) in enumerate(lines):
        own = overridden(panel, name)
        if own.get("custom.axisPlacement") == "right":
            other = axes.twinx()
            other.plot(times, values, color=PALETTE[index], lw=1.1)
            other.set_ylim(bottom=0)
            other.tick_params(colors=FAINT, labelsize=5.8, length=0)
            other.set_frame_on(False)
            axes.plot([], [], color=PALETTE[index], label=name)
            continue
        colour = COLOURS[own["color"]["fixedColor"]] if "color" in own else PALETTE[index % len(PALETTE)]
        dashed = "custom.lineStyle" in own
        if custom["stacking"]["mode"] == "normal" and not dashed:
            top = [below + (0 if math.isnan(value) else value) for below, value in zip(base, values, strict=True)]
            axes.fill_between(times, base, top, color=colour, alpha=custom["fillOpacity"] / 100 + 0.1, lw=0)
            axes.plot(times, top, color=colour, lw=1, label=name)
            base = top
            peak = max([peak, *top])
        else:
            axes.plot(times, values, color=colour, lw=1.1, ls="--" if dashed else "-", label=name)
            if custom["fillOpacity"] and not dashed and custom["scaleDistribution"]["type"] == "linear":
                axes.fill_between(times, 0, values, color=colour, alpha=custom["fillOpacity"] / 100, lw=0)
            peak = max([peak, *(value for value in values if not math.isnan(value))])
    if custom["scaleDistribution"]["type"] == "log" and peak > 0:
        axes.set_yscale("log")
    elif "min" in defaults:
        axes.set_ylim(bottom=defaults["min"], top=defaults.get("max", peak or 1) * 1.08)
    if custom["thresholdsStyle"]["mode"] != "off":
        for step in defaults["thresholds"]["steps"]:
            low, high = axes.get_ylim()
            if step["value"] is not None and low <= step["value"] <= high * 3:
                axes.axhline(step["value"], color=COLOURS[step["color"]], ls=(0, (4, 3)), lw=0.8)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: human(value, defaults["unit"])))
    if axes.get_yscale() == "linear":
        axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.minorticks_off()
    if not lines:
        axes.text(0.5, 0.5, "No data", color=FAINT, ha="center", va="center", fontsize=9, transform=axes.transAxes)
        return
    shown = [name for name, values in lines if any(value == value for value in values)]
    text = axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.12), ncols=min(4, max(1, len(shown))), fontsize=5.6, frameon=False, labelcolor=TEXT, handlelength=1, columnspacing=1, borderpad=0, labelspacing=0.2)
    for entry in text.get_texts()[12:]:
        entry.set_visible(False)


def draw_heat(axes, panel, prometheus, span, how):
    found = prometheus.range(dashboards.query(panel["targets"][0]["expr"], **how), *span, STEP)
    bounds = sorted(((float(labels["le"].replace("+Inf", "inf")), dict(points)) for labels, points in found), key=lambda pair: pair[0])
    steps = range(round((span[1] - span[0]) / STEP) + 1)
    grid, before = [], {}
    for _, by_time in bounds:
        points = {round((at - span[0]) / STEP): value for at, value in by_time.items()}
        grid.append([max(0.0, points.get(step, 0.0) - before.get(step, 0.0)) for step in steps])
        before = points
    most = max((value for line in grid for value in line), default=0)
    if most > 0:
        masked = [[value if value > 0 else math.nan for value in line] for line in grid]
        axes.imshow(masked, aspect="auto", origin="lower", cmap="Oranges_r", norm=LogNorm(max(most / 300, 1e-3), most), extent=(0, span[1] - span[0], 0, len(bounds)), interpolation="nearest")
    names = ["∞" if math.isinf(bound) else human(bound, "s") for bound, _ in bounds]
    axes.set_yticks([index + 1 for index in range(0, len(names), 3)], names[::3])


def draw_table(axes, panel, prometheus, span, how):
    axes.set_axis_off()
    names = panel["transformations"][1]["options"]["renameByName"]
    units = {override["matcher"]["options"]: override["properties"][0]["value"] for override in panel["fieldConfig"]["overrides"]}
    rows = {}
    for target in panel["targets"]:
        head = names.get(f"Value #{target['refId']}")
        for labels, value in prometheus.query(dashboards.query(target["expr"], **how), span[1]):
            row = rows.setdefault(labels["instance"], {})
            row |= {names[label]: text for label, text in labels.items() if label in names}
            if head:
                row[head] = human(value, units.get(head, "none"))
    # Columns without a value in any line are those of labels that this Prometheus does not have.
    heads = [head for head in names.values() if any(head in row for row in rows.values())]
    width = 1 / max(1, len(heads))
    for column, head in enumerate(heads):
        axes.text(0.01 + column * width, 0.82, head, color=PALETTE[2], fontsize=7, transform=axes.transAxes)
    for line, (_, row) in enumerate(sorted(rows.items())):
        for column, text in enumerate(row.get(head, "–") for head in heads):
            axes.text(0.01 + column * width, 0.66 - line * 0.15, text, color=TEXT, fontsize=7, transform=axes.transAxes)


DRAW = {"stat": draw_stat, "timeseries": draw_series, "heatmap": draw_heat, "table": draw_table}


def draw(prometheus, span, path):
    dashboard = dashboards.read()
    how = {"rate_interval": "15s", "length": f"{round(span[1] - span[0])}s"}
    alerts = prometheus.range('ALERTS{alertname=~"ChatBridge.*", alertstate="firing"}', *span, STEP)
    begins = sorted({points[0][0] - span[0] for _, points in alerts})
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    size = (24 * CELL[0], (height + 2) * CELL[1])
    figure = plt.figure(figsize=size, facecolor=BACKGROUND)
    figure.text(0.008, 1 - 1.1 * CELL[1] / size[1], "chat-bridge", color=TEXT, fontsize=14, va="center")

    def box(place, left, right, top, bottom):
        x, y = (place["x"] * CELL[0] + left) / size[0], 1 - ((place["y"] + place["h"] + 2) * CELL[1] - bottom) / size[1]
        return x, y, (place["w"] * CELL[0] - left - right) / size[0], (place["h"] * CELL[1] - top - bottom) / size[1]

    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        if panel["type"] == "row":
            x, y, _, h = box(place, 0.1, 0, 0, 0)
            figure.text(x, y + h / 2, "⌄ " + panel["title"], color=TEXT, fontsize=9.5, va="center", fontweight="bold")
            continue
        frame = figure.add_axes(box(place, 0.05, 0.05, 0.04, 0.04), facecolor=PANEL)
        frame.set_xticks([]), frame.set_yticks([])
        for edge in frame.spines.values():
            edge.set_color(GRID)
        x, y, w, h = box(place, 0.14, 0, 0.06, 0)
        figure.text(x, y + h - 0.06 / size[1], panel["title"], color=TEXT, fontsize=7.5, va="top")
        bare = panel["type"] in ("stat", "table")
        inner = box(place, 0.1, 0.1, 0.3, 0.1) if bare else box(place, 0.72, 0.14, 0.33, 0.55)
        axes = figure.add_axes(inner, facecolor=PANEL)
        axes.tick_params(colors=FAINT, labelsize=5.8, length=0)
        for edge in axes.spines.values():
            edge.set_visible(False)
        # A panel of minutes has a minute here, where hours are minutes.
        DRAW[panel["type"]](axes, panel, prometheus, span, how | ({"rate_interval": "60s"} if "interval" in panel else {}))
        if not bare:
            axes.set_xlim(0, span[1] - span[0])
            axes.set_xticks(range(0, round(span[1] - span[0]), 60))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{round(value / 60)} min"))
            axes.grid(color=GRID, lw=0.5)
            axes.set_axisbelow(True)
            for begin in begins if panel["type"] == "timeseries" else ():
                axes.axvline(begin, color=COLOURS["red"], lw=0.7, ls=":")
    figure.savefig(path, dpi=88, facecolor=BACKGROUND)


def shrink(path, limit=400_000):
    """To a palette: a picture of lines loses nothing by it."""
    from PIL import Image

    with Image.open(path) as image:
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    size = Path(path).stat().st_size
    assert size < limit, f"{size} bytes"


def course(prometheus, bridges, kafka, bed):
    """What happens while the clock runs. Spans are counted in what Prometheus has scraped."""

    def scraped(seconds):
        until = prometheus.query("time()")[0][1] + seconds
        series = "min(timestamp(chat_bridge_ready))"
        eventually("it is scraped", lambda: (prometheus.query(series) or [({}, 0)])[0][1] >= until, seconds + 60)

    wrong = bed.folder / "forged"
    wrong.write_text("another-token\n")
    begin = time.time()
    scraped(50)
    kafka.kill()
    scraped(50)
    kafka.start()
    scraped(50)
    forged = bridges[0].load(rate=30, tokens=wrong)
    for _ in range(5):
        bridges[0].post("not json")
    scraped(25)
    forged.kill()
    bridges[1].kill()
    bridges[1].start()
    scraped(45)
    return begin, time.time()


def main(path):
    with tempfile.TemporaryDirectory(prefix="chat-bridge-picture-") as folder, Bed(folder) as bed:
        kafka = bed.keep(Kafka(bed.folder / "kafka").start())
        kafka.started()
        once = {"kafka": {"delivery": "exactly-once"}}
        bridges = [bed.keep(Bridge(bed, f"chat-bridge-{number}", kafka, number, "chat-bridge", settings=once, tls=True)) for number in (0, 1)]
        bridges[0].run("topics", "apply")
        for bridge, rate in zip(bridges, (240, 160), strict=True):
            bridge.start()
            bridge.serves()
            bridge.load(rate)
        prometheus = bed.keep(Prometheus(bed, bridges, rules.faster(30, sorted(rules.RULES.glob("*.yaml")))))
        for bridge in bridges:
            bridge.publishes()
        span = course(prometheus, bridges, kafka, bed)
        draw(prometheus, span, path)
    shrink(path)


if __name__ == "__main__":
    main(sys.argv[1])
