import shutil

import pytest

import support


@pytest.fixture(scope="session")
def chart(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chart") / "chat-bridge"
    shutil.copytree(support.CHART, folder)
    for part in ("rules", "dashboards"):
        shutil.copytree(support.HERE / "fixtures" / part, folder / part, dirs_exist_ok=True)
    (support.HERE / "target" / "home").mkdir(parents=True, exist_ok=True)
    return support.Chart(folder)
