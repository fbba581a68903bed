"""What all tests share: the image, and the tools of tests/watch."""

import os
import sys

import pytest

import support

sys.path.insert(0, str(support.ROOT / "tests/watch"))


@pytest.fixture(scope="session")
def image():
    return support.Image(os.environ["IMAGE"])


@pytest.fixture(scope="session")
def compose():
    return support.Compose()


def pytest_unconfigure(config):
    """The last line, after pytest's own: one that counts all."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    passed, failed, errors = (len(reporter.stats.get(outcome, [])) for outcome in ("passed", "failed", "error"))
    print(f"{passed} passed, {failed + errors} failed")
