import shutil

import pytest

import support

NOTES = []


@pytest.fixture(scope="session")
def chart(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chart") / "chat-bridge"
    shutil.copytree(support.CHART, folder)
    for part in ("rules", "dashboards"):
        shutil.copytree(support.HERE / "fixtures" / part, folder / part, dirs_exist_ok=True)
    (support.HERE / "target" / "home").mkdir(parents=True, exist_ok=True)
    return support.Chart(folder)


@pytest.fixture(scope="session")
def note():
    """What the summary has to say besides: what a test could not look at."""
    return lambda text: NOTES.append(text) if text not in NOTES else None


def pytest_terminal_summary(terminalreporter):
    for text in NOTES:
        terminalreporter.write_line(f"NOTE: {text}")
