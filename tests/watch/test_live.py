"""A running system is broken in several ways at once, one bridge for each, and a real Prometheus and Alertmanager say what they see.

The rules are those that ship with all times divided by FACTOR (windows, `for`, ages), so that an hour is two minutes: what this proves of long windows is that their
queries work on real series; their times are proven by promtool, and burn rates over more than an hour are left to it. Bridges have a job each, so that the alerts of one say nothing about another.
"""

import math
import subprocess
import time
from types import SimpleNamespace

import pytest

import bed as beds
import dashboard as dashboards
import rules
from bed import Alertmanager, Bed, Bridge, Kafka, Not, Prometheus, eventually

FACTOR = 30

#: What each break makes fire, and nothing else.
EXPECTED = {
    "healthy": set(),
    "exactly-once": set(),
    "kafka-stopped": {"ChatBridgeKafkaDown", "ChatBridgeOldestUnpublishedTooOld"},
    "kafka-stopped-once": {"ChatBridgeKafkaDown", "ChatBridgeOldestUnpublishedTooOld"},
    # While Kafka takes everything a full disk stops nobody: segments are used again.
    "disk-full": {"ChatBridgeJournalFull", "ChatBridgeAnswersBudgetBurning", "ChatBridgeKafkaDown", "ChatBridgeOldestUnpublishedTooOld"},
    "wrong-token": {"ChatBridgeCallbacksDenied"},
    "topic-removed": {"ChatBridgeTopicParked", "ChatBridgeOldestUnpublishedTooOld"},
    "wrong-password": {"ChatBridgeKafkaAuthenticationFailed", "ChatBridgeOldestUnpublishedTooOld"},
    "tokens-lost": {"ChatBridgeTokensNotReloaded"},
    "not-json": {"ChatBridgeDeadLetters"},
    "clock-off": {"ChatBridgeClockSkewed"},
    "certificate-ending": {"ChatBridgeCertificateExpiring"},
    "certificate-lost": {"ChatBridgeCertificateNotReloaded"},
    "killed": {"ChatBridgeTargetMissing"},
    "restarting": {"ChatBridgeRestarting"},
}


def start(bed):
    """Everything, in health."""
    # Both start at once, and the one that is to be stopped has its own.
    kafka, stopped = (bed.keep(Kafka(bed.folder / name).start()) for name in ("kafka", "kafka-to-stop"))
    for each in (kafka, stopped):
        each.started()
    # Journals lie in memory: how long the disk of this machine takes is no matter of these tests. One lies on a disk of its own, which is to be full.
    journals, disk = bed.tmpfs("journals", 768), bed.tmpfs("disk", 24)
    more = {
        "kafka-stopped": {"kafka": stopped},
        "kafka-stopped-once": {"kafka": stopped, "settings": {"kafka": {"delivery": "exactly-once"}}},
        "disk-full": {"kafka": stopped, "journal": disk / "journal"},
        "wrong-password": {"sasl": True},
        "exactly-once": {"settings": {"kafka": {"delivery": "exactly-once"}}},
        "topic-removed": {"prefix": "removed."},
        "certificate-ending": {"tls": True},
        "certificate-lost": {"tls": True},
    }
    bridges = {name: bed.keep(Bridge(bed, name, **{"kafka": kafka, "journal": journals / name, **more.get(name, {})})) for name in EXPECTED}
    for name in ("exactly-once", "kafka-stopped", "kafka-stopped-once", "topic-removed"):
        bridges[name].run("topics", "apply")
    for bridge in bridges.values():
        bridge.start()
    for bridge in bridges.values():
        bridge.serves()
        # What is to be full has to be filled.
        bridge.load(300 if bridge is bridges["disk-full"] else 20)
    for bridge in bridges.values():
        bridge.publishes()
    alertmanager = bed.keep(Alertmanager(bed))
    files = sorted(rules.RULES.glob("*.yaml"))
    prometheus = bed.keep(Prometheus(bed, bridges.values(), rules.faster(FACTOR, files), alertmanager))
    return SimpleNamespace(bed=bed, kafka=kafka, stopped=stopped, disk=disk, bridges=bridges, alertmanager=alertmanager, prometheus=prometheus)


class Breaks:
    """What is done to each bridge, and undone."""

    def __init__(self, system):
        self.system = system
        self.bridges = system.bridges
        self.wrong = system.bed.folder / "forged"
        self.wrong.write_text("another-token\n")

    def break_all(self):
        bridges = self.bridges
        self.system.stopped.kill()
        with (self.system.disk / "filler").open("wb") as filler:
            try:
                while filler.write(b"\0" * 65536):
                    filler.flush()
            except OSError:
                pass
        self.system.kafka.delete("removed.group-full")
        bridges["wrong-password"].password.write_text("wrong")
        bridges["tokens-lost"].tokens.unlink()
        bridges["certificate-ending"].certify(1)
        bridges["certificate-lost"].certificate.unlink()
        bridges["wrong-token"].load(tokens=self.wrong)
        bridges["killed"].kill()
        self.restart(3)

    def restart(self, times):
        """A start counts once it was scraped."""
        bridge = self.bridges["restarting"]
        started = 'process_start_time_seconds{job="restarting"}'
        for _ in range(times):
            before = self.system.prometheus.query(started)[0][1]
            # The metric has whole seconds, rounded down twice: a start within the same one would not show.
            eventually("a start would show", lambda before=before: time.time() > before + 3)
            bridge.kill()
            bridge.start()

            def seen(before=before):
                now = self.system.prometheus.query(started)
                return bool(now) and now[0][1] > before

            eventually("the start is seen", seen)

    def go_on(self):
        """What has to be done all the time to keep it broken. Asked between two looks."""
        assert self.bridges["not-json"].post("not json") == 200
        for _ in range(8):
            assert self.bridges["clock-off"].post('{"GroupId":"@TGS#1"}', skew=45) == 200

    def mend_all(self):
        bridges = self.bridges
        self.system.stopped.start()
        (self.system.disk / "filler").unlink()
        bridges["topic-removed"].run("topics", "apply")
        bridges["wrong-password"].password.write_text(Kafka.PASSWORD)
        bridges["tokens-lost"].tokens.write_text(beds.TOKEN + "\n")
        bridges["certificate-ending"].certify(30)
        bridges["certificate-lost"].certify(30)
        bridges["wrong-token"].loads[-1].kill()
        bridges["killed"].start()
        self.system.stopped.started()


def quiet(system):
    active = system.alertmanager.names()
    return True if not active else Not(f"fires: {active}")


def firing_since(system, begin):
    """All alerts that fired at any moment from then on, by job."""
    out = {name: set() for name in EXPECTED}
    now = system.prometheus.query("time()")[0][1]
    for labels, _ in system.prometheus.range('ALERTS{alertstate="firing"}', begin, now, 1):
        out.setdefault(labels.get("job", ""), set()).add(labels["alertname"])
    return out


def unanswered(prometheus, queries):
    """Which of these have no number yet."""
    missing = []
    for title, reference, query in queries:
        if not any(not math.isnan(value) for _, value in prometheus.query(query)):
            missing.append(f"{title} {reference}: {query}")
    return missing


def selectors():
    """Every selector of the rules but those of kube-state-metrics, which is not here."""
    out = set()
    for rule in rules.read():
        for name, selector in rules.selectors(rule.expr):
            if not name.startswith("kube_"):
                out.add((rule.alert or rule.body["record"], name, f"count({selector})"))
    return sorted(out)


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """The whole course, told once; the tests look at what it saw."""
    seen = SimpleNamespace()
    with Bed(tmp_path_factory.mktemp("watch")) as bed:
        system = start(bed)
        prometheus = system.prometheus
        begin = prometheus.query("time()")[0][1]
        # Longer than any `for`, divided, that guards an alert of health.
        prometheus.passes(25)
        seen.health = firing_since(system, begin)
        breaks = Breaks(system)
        breaks.break_all()

        def all_fire():
            breaks.go_on()
            missing = {name: expected - system.alertmanager.names().get(name, set()) for name, expected in EXPECTED.items()}
            missing = {name: left for name, left in missing.items() if left}
            return True if not missing else Not(f"does not fire: {missing}; fires: {system.alertmanager.names()}")

        eventually("all that is expected fires", all_fire, 180)
        # What would come later comes now.
        for _ in range(10):
            breaks.go_on()
            prometheus.passes(1)
        seen.alerts = system.alertmanager.alerts()
        # Of what a cluster exposes there is nothing here; those queries are asked of made-up series (test_dashboard.py).
        queries = [each for each in dashboards.queries(dashboards.read()) if not dashboards.is_foreign(each[2])]

        def answered():
            breaks.go_on()
            left = unanswered(prometheus, queries)
            return True if not left else Not("\n".join(left))

        eventually("every query of the dashboard has an answer", answered, 60, 1)
        seen.selectors = {(rule, name): prometheus.query(query) for rule, name, query in selectors()}
        seen.exposed = {name: bridge.metrics() for name, bridge in system.bridges.items() if bridge.process.alive()}
        breaks.mend_all()
        eventually("everything is quiet", lambda: quiet(system), 300, 1)
        seen.course = firing_since(system, begin)
        seen.books = {name: books(bridge) for name, bridge in system.bridges.items()}
    return seen


def books(bridge):
    """Accepted + recovered - completed - unpublished, once the load has ended."""
    for load in bridge.loads:
        load.kill()
    eventually(f"{bridge.name} has published everything", lambda: bridge.value("chat_bridge_journal_unpublished_records") == 0)
    text = bridge.metrics()
    total = 0.0
    for prefix, sign in (
        ('chat_bridge_callbacks_total{outcome="accepted"', 1),
        ("chat_bridge_journal_recovered_records_total", 1),
        ("chat_bridge_records_completed_total", -1),
        ("chat_bridge_journal_unpublished_records", -1),
    ):
        total += sign * sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(prefix))
    return total


def test_nothing_fires_in_health(story):
    assert not {job: names for job, names in story.health.items() if names}


@pytest.mark.parametrize("job", EXPECTED)
def test_exactly_the_expected_alerts_fire_and_end(story, job):
    active = {alert["labels"]["alertname"] for alert in story.alerts if alert["labels"].get("job") == job}
    assert active == EXPECTED[job]
    assert story.course[job] == EXPECTED[job], "over the whole course"


def test_no_alert_stands_outside_of_the_jobs(story):
    assert set(story.course) == set(EXPECTED)


def test_alerts_carry_what_their_reader_needs(story):
    for alert in story.alerts:
        notes = alert["annotations"]
        page = rules.RUNBOOKS / f"{alert['labels']['alertname']}.md"
        assert notes["runbook_url"].endswith(page.name) and page.is_file()
        for text in notes.values():
            assert "<no value>" not in text and "{{" not in text and "error" not in text.lower(), text


def test_every_selector_of_the_rules_finds_series(story):
    assert len(story.selectors) > 50
    assert not [key for key, found in story.selectors.items() if not found]


def test_every_metric_that_is_exposed_is_documented_and_the_other_way_round(story):
    documented = rules.documented()
    for name, text in story.exposed.items():
        exposed = dict(line.split()[2:4] for line in text.splitlines() if line.startswith("# TYPE "))
        assert exposed == documented, name


def test_promtool_finds_no_fault_in_a_scrape(story, promtool):
    for name, text in story.exposed.items():
        done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True)
        assert done.returncode == 0 and not done.stdout + done.stderr, f"{name}: {done.stdout}{done.stderr}"


def test_the_books_balance_after_it_all(story):
    assert story.books == dict.fromkeys(EXPECTED, 0.0)
