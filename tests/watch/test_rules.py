"""Rules and runbooks, without anything that runs: lints, promtool's tests, and what holds alerts, pages, metrics and sub-commands together."""

import re
import subprocess
from collections import defaultdict

import pytest
import yaml

import bed as beds
import rules

CASES = sorted((rules.ROOT / "tests/watch/rules").glob("*.yaml"))
#: Metrics of kube-state-metrics, and of Prometheus itself.
FOREIGN = {
    "kube_persistentvolumeclaim_status_phase",
    "kube_pod_spec_volumes_persistentvolumeclaims_info",
    "kube_statefulset_replicas",
    "kube_statefulset_status_replicas_ready",
    "up",
}
HEADINGS = ["Meaning", "Impact", "Diagnosis", "Mitigation", "Verify"]
FIRING = re.compile(r'ALERTS\{alertname="(\w+)", alertstate="firing"(?:, severity="(\w+)")?(?:, window="(\w+)")?\}')
ALERTS = rules.alerts()
NAMES = sorted({rule.alert for rule in ALERTS})


def names_are_known(query, known):
    for name, _ in rules.selectors(query):
        assert rules.family(name) in known or name in known, f"{name} does not exist"


def known():
    return set(rules.documented()) | rules.recorded() | FOREIGN


def test_promtool_finds_no_fault(promtool):
    done = subprocess.run([promtool, "check", "rules", "--lint=all", "--lint-fatal", *rules.files()], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_alerts_fire_stay_quiet_and_end(promtool, case):
    done = subprocess.run([promtool, "test", "rules", case], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def checks(group):
    """The checks of a group of promtool's tests: which rule, when, how many fire."""
    for check in group["promql_expr_test"]:
        match = FIRING.search(check["expr"])
        assert match, check["expr"]
        yield match.groups(), rules.seconds(str(check["eval_time"])), bool(check["exp_samples"])


def test_every_rule_has_cases_that_fire_end_and_stay_quiet_just_below():
    ends, below = set(), set()
    for case in CASES:
        for group in yaml.safe_load(case.read_text())["tests"]:
            seen = defaultdict(list)
            for rule, at, fires in checks(group):
                seen[rule].append((at, fires))
            for rule, course in seen.items():
                fires = [firing for _, firing in sorted(course)]
                if any(fires) and not fires[-1]:
                    ends.add(rule)
                if not any(fires) and group["name"].endswith("stays quiet just below"):
                    below.add(rule)
    for name, severity, window in (rule.variant for rule in ALERTS):
        alone = sum(rule.alert == name for rule in ALERTS) == 1
        key = (name, None, None) if alone else (name, severity, window)
        assert key in ends, f"no case in which {key} fires and ends"
        assert key in below, f"no case in which {key} stays quiet just below"


def rendered(promtool, case, folder):
    """The annotations of all alerts that a file of promtool's tests makes fire: it is told that none does, and complains of each."""
    tests = yaml.safe_load(case.read_text())
    tests["rule_files"] = [str((case.parent / path).resolve()) for path in tests["rule_files"]]
    expected = 0
    for group in tests["tests"]:
        group["alert_rule_test"] = [{"eval_time": at, "alertname": rule[0]} for rule, at, fires in checks(group) for at in [f"{at}s"] if fires]
        expected += len(group["alert_rule_test"])
        del group["promql_expr_test"]
    tests["tests"] = [group for group in tests["tests"] if group["alert_rule_test"]]
    copy = folder / case.name
    copy.write_text(yaml.safe_dump(tests))
    done = subprocess.run([promtool, "test", "rules", copy], capture_output=True, text=True)
    return expected, done.stdout + done.stderr


@pytest.mark.parametrize("case", [case for case in CASES if case.stem != "slo-long"], ids=lambda path: path.stem)
def test_annotations_are_whole(promtool, case, tmp_path):
    expected, said = rendered(promtool, case, tmp_path)
    got = re.findall(r"^\s*Annotations:\{(.*)\}", said, re.M)
    assert len(got) >= expected > 0, said
    for annotations in got:
        for fault in ("<no value>", "error ", "{{"):
            assert fault not in annotations, annotations
        # A label that the expression does not keep leaves a hole: two blanks, or a text that ends or begins with one.
        assert not re.search(r'  |=" | "', annotations), annotations


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: "-".join(part for part in rule.variant if part))
def test_an_alert_says_what_who_and_where_to(rule):
    assert rule.alert.startswith("ChatBridge")
    assert rule.body["labels"]["severity"] in ("critical", "warning")
    notes = rule.body["annotations"]
    assert set(notes) == {"summary", "description", "runbook_url"}
    assert notes["runbook_url"] == f"{rules.RUNBOOK_URL}{rule.alert}.md"
    assert (rules.RUNBOOKS / f"{rule.alert}.md").is_file()
    assert len(notes["summary"]) <= 100 and not notes["summary"].endswith(".")
    # What counts events of the last hour needs no time to make sure of it.
    assert "for" in rule.body or "[1h]" in rule.expr or "60 * 60" in rule.expr


@pytest.mark.parametrize("rule", rules.read(), ids=lambda rule: rule.alert or rule.body["record"])
def test_a_rule_names_what_exists(rule):
    names_are_known(rule.expr, known())


def test_pages_and_alerts_are_the_same():
    pages = {page.stem for page in rules.RUNBOOKS.glob("ChatBridge*.md")}
    assert pages == set(NAMES)
    index = (rules.RUNBOOKS / "README.md").read_text()
    listed = dict(re.findall(r"^\| \[(ChatBridge\w+)\]\(\1\.md\) \| ([^|]*) \|", index, re.M))
    assert set(listed) == set(NAMES)
    for name in NAMES:
        severities = {rule.body["labels"]["severity"] for rule in ALERTS if rule.alert == name}
        off = any("optional" in rule.file.parts for rule in ALERTS if rule.alert == name)
        assert set(re.findall(r"critical|warning", listed[name])) == severities, name
        assert ("off by default" in listed[name]) == off, name


@pytest.fixture(scope="session")
def verbs():
    """Every sub-command of the program that has none of its own, with its options, from its own help."""
    seen = {}

    def ask(words):
        said = subprocess.run([beds.program(), *words, "--help"], capture_output=True, text=True, check=True, env=beds.environment()).stdout
        commands = re.search(r"^Commands:\n((?:  .*\n|\n)*)", said, re.M)
        below = re.findall(r"^  ([a-z-]+)  ", commands[1], re.M) if commands else []
        for verb in below:
            if verb not in ("help", "completions"):
                ask([*words, verb])
        if not below:
            seen[tuple(words)] = set(re.findall(r"--[a-z-]+", said))

    ask([])
    assert len(seen) > 10
    return seen


PAGES = sorted(rules.RUNBOOKS.glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_whole(page, verbs):
    text = page.read_text()
    if page.stem != "README":
        assert re.findall(r"^## (.*)$", text, re.M) == HEADINGS
        assert f"]({page.name})" in (rules.RUNBOOKS / "README.md").read_text()
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert (page.parent / link).is_file(), link
    for word in re.findall(r"[\w:]*chat_bridge_\w+(?::\w+)?", text):
        assert rules.family(word) in known() or word in known(), word
    for query in re.findall(r"```promql\n(.*?)```", text, re.S):
        for line in query.strip().splitlines():
            names_are_known(line.split("   #")[0], known())
    called = re.findall(r"^(?:.*-- )?chat-bridge ([a-z][^\n#|;]*)", text, re.M) + re.findall(r"`chat-bridge ([a-z][^`]*)`", text)
    for command in called:
        words = command.split()
        verb = max((tuple(words[:n]) for n in (1, 2) if tuple(words[:n]) in verbs), key=len, default=None)
        assert verb, f"chat-bridge {command}"
        for option in (word for word in words if word.startswith("--")):
            assert option in verbs[verb], f"chat-bridge {command}: {option}"
    # A pattern for grep finds something in what the program can say.
    for pattern in re.findall(r"9090/metrics \| grep (?:-E )?'?([^'|\n]+(?:\|[^'\n]+)?)'?", text):
        for piece in re.split(r"[|()]|\\\{.*", pattern):
            if re.fullmatch(r"[a-z_]{8,}", piece):
                assert any(piece in name for name in rules.documented()), piece


def headings(page):
    return re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M)


def anchor(heading):
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_what_refers_to_the_operations_page_finds_its_place():
    operations = rules.ROOT / "docs/operations.md"
    known = headings(operations)
    assert len(known) == len(set(known)) > 40
    anchors = {anchor(heading) for heading in known}
    seen = 0
    for page in [rules.ROOT / "README.md", *(rules.ROOT / "docs").rglob("*.md"), *(path for path in (rules.ROOT / "helm").rglob("*") if path.is_file())]:
        text = page.read_text()
        within = r"\]\((?:[\w./]*operations\.md)?#([\w-]+)\)" if page == operations else r"operations\.md#([\w-]+)"
        named = re.findall(r'operations\.md`?, "([^"]+)"', text)
        linked = re.findall(within, text)
        seen += len(named) + len(linked)
        assert set(named) <= {re.sub(r"[`*]", "", heading) for heading in known} | {heading.split(":")[0] for heading in known}, page
        assert set(linked) <= anchors, page
    assert seen > 40
