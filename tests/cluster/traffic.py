"""Callbacks to the release's Service, by `simulate load`, and what `simulate verify` says of them."""

import contextlib
import json
import signal
import subprocess

from bed import environment, eventually, program

CONNECTIONS = 8
RATE = 100
# Chat waits no longer for an answer.
PATIENCE = "2s"


class Traffic:
    """One load. Its figures are there once it has ended."""

    def __init__(self, folder, name, target, kafka, tokens):
        self.name, self.kafka = name, kafka
        self.log, self.out, self.err = (folder / f"{name}.{part}" for part in ("log", "json", "err"))
        command = [program(), "simulate", "load", "--target", target, "--token-file", tokens, "--connections", CONNECTIONS, "--rate", RATE, "--duration", "10m"]
        command += ["--timeout", PATIENCE, "--continue-on-error", "--log", self.log, "--bootstrap-servers", kafka, "--format", "json"]
        with self.out.open("w") as out, self.err.open("w") as err:
            self.child = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment())
        eventually(f"the load {name} runs", self.has_sent)

    def has_sent(self, callbacks=0):
        """Whether so many callbacks stand in the log, besides its head. It is written once a second."""
        assert self.child.poll() is None, f"the load {self.name} ended by itself: {self.err.read_text()}"
        return self.log.exists() and self.log.read_bytes().count(b"\n") > 1 + callbacks

    def goes_on(self, callbacks=RATE):
        """Waits for so many more callbacks than there are."""
        before = self.log.read_bytes().count(b"\n")
        eventually(f"the load {self.name} goes on", lambda: self.has_sent(before + callbacks))

    def end(self):
        """Ends it, and reads its figures."""
        self.child.send_signal(signal.SIGINT)
        code = self.child.wait(60)
        assert code == 0, f"the load {self.name} ended with {code}: {self.err.read_text()}"
        self.summary = json.loads(self.out.read_text())
        assert self.summary["acknowledged"] > 0

    def kill(self):
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()

    def was_undisturbed(self):
        """Each callback was acknowledged at its first try, and in time."""
        wrong = {key: self.summary[key] for key in ("refused", "unknown", "broken", "connect_failures", "acknowledged_otherwise") if self.summary[key]}
        assert not wrong, f"callbacks of {self.name} were lost to Chat: {wrong} of {self.summary['sent']}"

    def lost_at_most(self, unknown):
        """Nothing was refused, and no more callbacks went unanswered than were in hand or waited for a dead pod."""
        assert not self.summary["refused"], self.summary
        assert self.summary["unknown"] <= unknown, self.summary

    def arrived(self):
        """Each callback that was acknowledged is in Kafka, and nothing that was not sent."""
        command = [program(), "simulate", "verify", "--log", self.log, "--bootstrap-servers", self.kafka, "--timeout", "60s", "--format", "json"]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environment(), check=False)
        assert done.returncode in (0, 65), f"verify of {self.name}: {done.returncode}: {done.stderr}"
        report = json.loads(done.stdout)
        # A Service leads the callbacks of one group to one instance today and to another tomorrow, and order is the promise of one instance.
        wrong = {what: found for what, found in report["violations"].items() if what != "out_of_order"}
        assert not wrong, f"verify of {self.name}: {wrong}"
        assert report["acknowledged_found"] == report["acknowledged"] == self.summary["acknowledged"], report


@contextlib.contextmanager
def flowing(*arguments):
    """A load for as long as the block lasts."""
    traffic = Traffic(*arguments)
    try:
        yield traffic
        traffic.end()
    finally:
        traffic.kill()
