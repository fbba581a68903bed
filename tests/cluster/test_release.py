"""One release from its installation to its end, under callbacks. Each test is a step, and begins where the one before has ended."""

import json
import re

from bed import Not, eventually
from cluster import HELM3, NODE, conditions
from release import NAME, WAIT, refused
from service import is_ready
from traffic import CONNECTIONS


def test_the_namespace_admits_only_what_is_restricted(release):
    plain = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "plain", "namespace": "chat"}, "spec": {"containers": [{"name": "it", "image": "localhost/pause:1"}]}}
    with refused('violates PodSecurity "restricted'):
        release.cluster.apply(plain)


def test_install(release, callbacks):
    release.install()
    pods = release.ready(0, 1)
    assert set(release.claims().values()) == {"Bound"} and sorted(release.claims()) == [f"data-{NAME}-0", f"data-{NAME}-1"]
    assert len({pod["status"]["podIP"] for pod in pods.values()}) == 2
    with callbacks() as load:
        load.goes_on()
    load.was_undisturbed()
    load.arrived()
    # Both had their part, and each knows its number.
    for number in pods:
        assert release.value(number, 'chat_bridge_callbacks_total{outcome="accepted",reason="durable"}') > 0
        assert json.loads(release.bridge(number, "config", "dump", "--format", "json"))["kafka"]["instance"] == str(number)


def test_the_bridges_are_confined(release):
    for number in release.pods():
        status, mounts = release.cluster.process(release.container(number))
        assert status["Uid"].split() == ["65532"] * 4 and status["Gid"].split() == ["65532"] * 4
        # No capabilities, none to be had by a program that is run, and system calls filtered.
        assert (int(status["CapEff"], 16), int(status["CapBnd"], 16), status["NoNewPrivs"], status["Seccomp"]) == (0, 0, "1", "2")
        assert "ro" in mounts["/"] and "rw" in mounts["/var/lib/chat-bridge"] and "ro" in mounts["/etc/chat-bridge"]
        assert "/var/run/secrets/kubernetes.io/serviceaccount" not in mounts, "a token of the account"


def test_the_logs_are_json(release):
    for number in release.pods():
        lines = release.cluster.kubectl("logs", f"{NAME}-{number}").splitlines()
        assert lines
        for line in lines:
            assert {"timestamp", "level"} <= json.loads(line).keys(), line


def test_helm_test(release, services):
    passes_its_tests(release)


def passes_its_tests(release, **how):
    """The pods of a test before are there still, and make room."""
    said = release.cluster.helm("test", "bridge", "--logs", "--timeout", "60s", **how)
    assert len(re.findall(r"Phase:\s+Succeeded", said)) == 3, said
    assert sorted(re.findall(r"POD LOGS: (\S+)", said)) == [f"{NAME}-test-{name}" for name in ("configuration", "connection", "kafka")], said
    assert "no problems" in said, said


def test_a_change_of_the_configuration_rolls_the_pods(release, callbacks):
    before = release.identities()
    with callbacks() as load:
        release.upgrade(config__http__idle_timeout="7m")
        after = release.identities()
        load.goes_on()
    assert renewed(before, after) == [0, 1], "not all pods were renewed"
    for number in after:
        assert "7m" in release.bridge(number, "config", "dump")
    load.was_undisturbed()
    load.arrived()


def renewed(before, after):
    """The numbers whose pods are others than they were."""
    return sorted(number for number, identity in after.items() if before.get(number) not in (None, identity))


def test_a_rollback_brings_image_and_configuration_back(release, callbacks):
    before = release.identities()
    with callbacks() as load:
        release.upgrade("--wait=hookOnly", image__tag="none")
        eventually("pod 1 has no image", lambda: "ErrImageNeverPull" in json.dumps(release.pods().get(1, {}).get("status", {})))
        assert release.identities()[0] == before[0], "the next one was ended before this one was ready"
        # To the revision before the change of the configuration.
        release.cluster.helm("rollback", "bridge", "1", *WAIT)
        after = release.identities()
        load.goes_on()
    for setting in ("image.tag", "config.http.idle_timeout"):
        del release.settings[setting]
    assert renewed(before, after) == [0, 1], "not all pods were renewed"
    for number in release.ready(0, 1):
        assert "7m" not in release.bridge(number, "config", "dump")
    load.was_undisturbed()
    load.arrived()


def test_new_tokens_are_taken_up_by_the_pods_that_run(release, callbacks):
    before = release.identities()
    # The bridges first, then Chat: as one rotates.
    release.sign_with("second-token", "first-token")
    for number in before:
        eventually(f"{number} knows the new token", lambda number=number: release.status_of(number, "second-token") == 200)
    with callbacks() as load:
        release.sign_with("second-token")
        for number in before:
            eventually(f"{number} has forgotten the old token", lambda number=number: release.status_of(number, "first-token") == 401)
    assert release.identities() == before
    load.was_undisturbed()
    load.arrived()


def test_a_change_of_a_secret_rolls_the_pods(release, callbacks):
    before = release.identities()
    with callbacks() as load:
        # The tokens are others than at the last upgrade.
        release.upgrade()
        after = release.identities()
        load.goes_on()
    assert renewed(before, after) == [0, 1], "not all pods were renewed"
    load.was_undisturbed()
    load.arrived()


def test_scale_out(release, callbacks):
    before = release.identities()
    with callbacks() as load:
        release.upgrade(replicas=3)
        load.goes_on()
    with callbacks() as more:
        more.goes_on()
    assert release.identities().items() > before.items(), "those that ran were renewed"
    assert release.value(2, 'chat_bridge_callbacks_total{outcome="accepted",reason="durable"}') > 0
    for each in (load, more):
        each.was_undisturbed()
        each.arrived()


def test_drain_and_scale_in(release, callbacks):
    with refused("replicas: 2 is less than the 3 that run"):
        release.upgrade(replicas=2)
    release.settings["replicas"] = 3
    with callbacks() as load:
        assert release.drain(2, "POST")["draining"]
        drained = eventually("instance 2 is drained", lambda: (said := release.drain(2, "GET"))["empty_since"] and said or Not(said))
        assert drained["instance"] == "2" and not drained["accepting"] and drained["unpublished"] == 0 and not drained["parked"]
        folder = eventually("the folder says so", lambda: (said := json.loads(release.bridge(2, "journal", "status", "--format", "json")))["accepting"] is False and said)
        assert folder["drained_since"] == drained["since"] and folder["unpublished"]["records"] == 0
        eventually("the Service leads nobody to instance 2", lambda: not is_ready(release.pod(2)))
        release.upgrade(replicas=2, allowScaleIn="true")
        release.ready(0, 1)
        release.upgrade(allowScaleIn="false")
        release.cluster.kubectl("delete", "pvc", f"data-{NAME}-2", "--timeout=60s")
        load.goes_on()
    release.ready(0, 1)
    load.was_undisturbed()
    load.arrived()


def test_a_killed_pod_loses_nothing_of_a_filled_journal(release, callbacks, kafka):
    with callbacks() as load:
        kafka.kill()
        release.fills(0)
        restarts = release.restarts(0)
        release.signal(0, "SIGKILL")
        eventually("the bridge 0 was started again", lambda: release.restarts(0) == restarts + 1)
        release.ready(0, 1)
        assert release.value(0, "chat_bridge_journal_recovered_records_total") >= 200
        release.fills(1)
        before = release.identities()
        release.cluster.kubectl("delete", "pod", f"{NAME}-1", "--force", "--grace-period=0")
        eventually("there is another pod 1", lambda: release.identities().get(1) not in (None, before[1]))
        release.ready(0, 1)
        load.goes_on()
        assert release.value(1, "chat_bridge_journal_recovered_records_total") >= 200
        kafka.start().started()
        release.empties(0, 1)
    load.lost_at_most(2 * CONNECTIONS)
    load.arrived()


def test_a_bridge_that_hangs_is_restarted(release, callbacks):
    restarts = release.restarts(1)
    with callbacks() as load:
        release.signal(1, "SIGSTOP")
        eventually("the bridge 1 was restarted", lambda: release.restarts(1) == restarts + 1 or Not(release.restarts(1)))
        release.ready(0, 1)
        load.goes_on()
    events = release.cluster.get("events", fieldSelector=f"involvedObject.name={NAME}-1,reason=Unhealthy")
    assert any("Liveness probe failed" in one["message"] for one in events), events
    load.lost_at_most(2 * CONNECTIONS)
    load.arrived()


def test_an_eviction_beyond_the_budget_is_refused(release, callbacks):
    before = release.identities()
    with callbacks() as load:
        release.cluster.kubectl("cordon", NODE)
        eventually("pod 0 may go", lambda: release.evicted(0))
        with refused("429", "violate the pod's disruption budget"):
            release.evict(1)
        eventually("pod 0 is gone from its node", lambda: release.identities().get(0) not in (None, before[0]))
        assert release.identities()[1] == before[1]
        with refused("violate the pod's disruption budget"):
            release.evict(1)
        release.cluster.kubectl("uncordon", NODE)
        release.ready(0, 1)
        load.goes_on()
    load.was_undisturbed()
    load.arrived()


def test_the_job_publishes_what_an_instance_that_is_gone_has_left(release, callbacks, kafka):
    release.upgrade(replicas=3)
    with callbacks() as load:
        kafka.kill()
        release.fills(2)
        # Not drained: what it has answered goes away with it.
        release.upgrade(replicas=2, allowScaleIn="true")
        release.ready(0, 1)
        assert release.claims()[f"data-{NAME}-2"] == "Bound"
        kafka.start().started()
        release.upgrade(drainJob__instance=2)
        job = eventually("the Job has ended", lambda: ended_job(release), 90)
        load.goes_on()
    assert job["status"].get("succeeded") == 1, job["status"]
    said = release.cluster.kubectl("logs", f"job/{job['metadata']['name']}")
    assert int(re.search(r"published\s+(\d+)", said)[1]) >= 200, said
    load.was_undisturbed()
    load.arrived()
    # As the chart's README has it: the Job's pod holds on to the volume until it is removed.
    del release.settings["drainJob.instance"]
    release.upgrade(allowScaleIn="false")
    release.cluster.kubectl("delete", "pvc", f"data-{NAME}-2", "--timeout=60s")


def ended_job(release):
    jobs = release.cluster.get("jobs", group="apis/batch/v1")
    ended = [job for job in jobs if "True" in (conditions(job).get("Complete"), conditions(job).get("Failed"))]
    return ended[0] if ended else Not([job["status"] for job in jobs])


def test_the_volumes_outlive_the_release(release, callbacks, kafka):
    with callbacks() as load:
        kafka.kill()
        for number in (0, 1):
            release.fills(number)
    kept = {f"data-{NAME}-{number}": "Bound" for number in (0, 1)}
    release.cluster.helm("uninstall", "bridge", *WAIT)
    release.ready()
    assert release.claims() == kept, "the volumes went with the release"
    kafka.start().started()
    # Under the same name, by the other Helm: the instances go on with their journals.
    release.install(version=HELM3)
    release.ready(0, 1)
    release.empties(0, 1)
    load.was_undisturbed()
    load.arrived()
    passes_its_tests(release, version=HELM3)
    release.cluster.helm("uninstall", "bridge", *WAIT, version=HELM3)
    release.ready()
    assert release.claims() == kept, "the volumes went with the release"
