"""The chart as it is handed on: what is packed, what Artifact Hub is told of it, and its signature."""

import pathlib
import re
import subprocess
import tarfile

import pytest
import yaml

import support
from support import CHART, HELMS, REPOSITORY, containers, pods

HOME = "https://github.com/chat-bridge/chat-bridge"
SIGNER = "tests of chat-bridge"


@pytest.fixture(scope="session")
def about():
    return yaml.safe_load((CHART / "Chart.yaml").read_text())


def hub(about, key):
    return yaml.safe_load(about["annotations"][f"artifacthub.io/{key}"])


def test_the_chart_is_packed_with_what_it_reads_and_without_what_is_for_tests(chart, tmp_path):
    assert chart.helm("helm4", "package", chart.folder, "--destination", tmp_path).code == 0
    (package,) = tmp_path.glob("*.tgz")
    with tarfile.open(package) as archive:
        names = archive.getnames()
    wanted = [path for part in ("examples", "rules", "dashboards", "templates") for path in (chart.folder / part).rglob("*") if path.is_file()]
    assert {f"chat-bridge/{path.relative_to(chart.folder)}" for path in wanted} <= set(names)
    assert not [name for name in names if re.search(r"/ci/|gotmpl|\.orig$", name)]


def test_the_chart_bears_the_version_of_the_program(about):
    program = re.search(r'^version = "(.*)"', (REPOSITORY / "Cargo.toml").read_text(), re.M).group(1)
    assert about["appVersion"] == program


def test_artifact_hub_is_told_what_is_so(chart, about):
    assert about["home"] == HOME and about["sources"] == [HOME]
    assert hub(about, "license") == re.search(r'^license = "(.*)"', (REPOSITORY / "Cargo.toml").read_text(), re.M).group(1)
    assert hub(about, "category") == "streaming-messaging"
    # Each is text: Artifact Hub takes no other.
    assert all(isinstance(value, str) for value in about["annotations"].values())
    assert hub(about, "prerelease") == ("-" in about["version"])
    changes = hub(about, "changes")
    assert changes and all(set(one) <= {"kind", "description", "links"} and one["description"] for one in changes)
    assert {one["kind"] for one in changes} <= {"added", "changed", "deprecated", "removed", "fixed", "security"}
    assert hub(about, "containsSecurityUpdates") == any(one["kind"] == "security" for one in changes)
    ours = {one["image"] for _, _, spec in pods(chart.objects("ci/drain-job-values.yaml")) for one in containers(spec)}
    assert ours == {one["image"] for one in hub(about, "images")}


def test_what_artifact_hub_links_to_is_there(about):
    links = [one["url"] for one in hub(about, "links")] + [one["url"] for one in hub(about, "screenshots")]
    assert len(links) == len(set(links)) >= 5
    for link in links:
        path = re.fullmatch(r"https://(?:github\.com/chat-bridge/chat-bridge/blob|raw\.githubusercontent\.com/chat-bridge/chat-bridge)/main/(.*)", link)
        assert path and (REPOSITORY / path[1]).is_file(), link


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A key made for these tests, and a stranger's: the rings that Helm reads, which GnuPG no longer keeps by itself."""
    rings = {}
    for who in (SIGNER, "somebody else"):
        folder = tmp_path_factory.mktemp("gnupg")
        folder.chmod(0o700)
        gpg = ["gpg", "--homedir", folder, "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]
        try:
            subprocess.run([*gpg, "--quick-generate-key", f"{who} <tests@example.com>", "rsa3072", "sign", "1d"], check=True, capture_output=True, timeout=120)
            for ring, export in (("secret", "--export-secret-keys"), ("public", "--export")):
                (folder / ring).write_bytes(subprocess.run([*gpg, export], check=True, capture_output=True, timeout=60).stdout)
        finally:
            subprocess.run(["gpgconf", "--homedir", folder, "--kill", "gpg-agent"], check=True, capture_output=True, timeout=60)
        rings[who] = folder
    return rings


@pytest.mark.parametrize("helm", HELMS)
def test_a_signed_chart_is_verified_by_both_helms(chart, keys, helm, tmp_path):
    done = chart.helm(helm, "package", chart.folder, "--destination", tmp_path, "--sign", "--key", SIGNER, "--keyring", keys[SIGNER] / "secret")
    assert done.code == 0, done.err
    (package,) = tmp_path.glob("*.tgz")
    assert pathlib.Path(f"{package}.prov").is_file()
    for other in HELMS:
        good = chart.helm(other, "verify", package, "--keyring", keys[SIGNER] / "public")
        assert good.code == 0 and f"Signed by: {SIGNER}" in good.out + good.err, good.err
        assert chart.helm(other, "verify", package, "--keyring", keys["somebody else"] / "public").code != 0, "a stranger's key"
    package.write_bytes(package.read_bytes() + b"\0")
    for other in HELMS:
        bad = chart.helm(other, "verify", package, "--keyring", keys[SIGNER] / "public")
        assert bad.code != 0 and "sha256 sum does not match" in bad.err, bad.out + bad.err
