"""What all tests share: where the tools are."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import bed as beds  # noqa: E402


@pytest.fixture(scope="session")
def promtool():
    return beds.tool("promtool")
