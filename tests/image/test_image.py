"""What the image holds, and what it says of itself."""

import json
import re
import stat
import subprocess

import pytest
import yaml

import elf
from support import BIN, DEPLOY, PROGRAM, ROOT, SBOM, USER, locked, manifest

#: What the image may weigh, unpacked. The program is most of it; the rest is the C library and the authorities.
SIZE_MAX_MIB = 32

DOCKERFILE = (DEPLOY / "Dockerfile").read_text()


def lint(text):
    done = subprocess.run([BIN / "hadolint", "--format", "json", "-"], input=text, capture_output=True, text=True, check=False)
    return {problem["code"] for problem in json.loads(done.stdout)}


def test_hadolint_has_nothing_to_say():
    assert lint(DOCKERFILE) == set()
    assert "DL3006" in lint(DOCKERFILE.replace("FROM scratch", "FROM debian")), "a base image without a version is seen"


def test_the_base_image_is_pinned_and_compiles_the_program():
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)
    assert bases == ["${RUST_IMAGE}", "${RUST_IMAGE}", "scratch"]
    (tag,) = re.findall(r"^ARG RUST_IMAGE=docker\.io/library/rust:(\d+\.\d+\.\d+)-bookworm$", DOCKERFILE, re.M)
    numbers = [int(number) for number in tag.split(".")]
    assert numbers[:2] >= [int(number) for number in manifest()["rust-version"].split(".")[:2]]


def test_it_says_what_it_runs(image):
    config = image.config
    assert config["Entrypoint"] == ["chat-bridge"]
    assert config["Cmd"] == ["serve"]
    assert config["User"] == f"{USER}:{USER}"
    assert config["StopSignal"] == "SIGTERM"
    assert set(config["ExposedPorts"]) == {"8080/tcp", "9090/tcp"}
    assert set(config["Volumes"]) == {"/var/lib/chat-bridge"}
    assert config["Env"] == ["PATH=/usr/local/bin"]
    health = image.inspect["HealthCheck" if "HealthCheck" in image.inspect else "Healthcheck"]
    assert health["Test"] == ["CMD", "chat-bridge", "healthcheck"]
    # The question gives up by itself before the engine does.
    assert health["Timeout"] > 2_000_000_000 and health["Retries"] == 3 and health["StartPeriod"] > 0


def test_its_labels_are_those_of_the_crate_and_of_the_commit(image):
    crate = manifest()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    expected = {
        "title": crate["name"],
        "description": crate["description"],
        "version": crate["version"],
        "revision": commit,
        "licenses": crate["license"],
    }
    for name, value in expected.items():
        assert image.labels[f"org.opencontainers.image.{name}"] == value
    for name in ("source", "documentation"):
        assert image.labels[f"org.opencontainers.image.{name}"].startswith("https://")


def test_it_is_what_the_chart_expects(image):
    chart = yaml.safe_load((ROOT / "helm/chat-bridge/Chart.yaml").read_text())
    values = yaml.safe_load((ROOT / "helm/chat-bridge/values.yaml").read_text())
    helpers = (ROOT / "helm/chat-bridge/templates/_config.tpl").read_text()
    assert image.labels["org.opencontainers.image.version"] == chart["appVersion"]
    assert (values["podSecurityContext"]["runAsUser"], values["podSecurityContext"]["runAsGroup"]) == (USER, USER)
    for path in ("/etc/chat-bridge", "/var/lib/chat-bridge"):
        assert f"\n{path}\n" in helpers
        assert (image.root / path[1:]).is_dir(), path


def test_programs_are_the_bridge_and_the_loader_alone(image):
    """No shell, and nothing else that could be run; every library that is there is one that the program asks for."""
    executable = {path for path, about in image.files() if stat.S_ISREG(about.st_mode) and about.st_mode & 0o111}
    asked = subprocess.run(["ldd", image.root / PROGRAM], capture_output=True, text=True, check=True).stdout
    libraries = {line.split("=>")[-1].split()[0].lstrip("/") for line in asked.splitlines() if "/" in line}
    assert {str(path) for path in executable} == libraries | {PROGRAM}
    for path in executable:
        assert (image.root / path).read_bytes()[:4] == elf.MAGIC, f"{path} is no script"
    assert not [path for path, _ in image.files() if path.name in {"sh", "bash", "dash", "busybox"}]


def test_nobody_may_change_it_but_the_journals_folder(image):
    for path, about in image.files():
        mode, owner = stat.S_IMODE(about.st_mode), (about.st_uid, about.st_gid)
        assert stat.S_IFMT(about.st_mode) in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK), f"{path} is a device or the like"
        assert not mode & 0o6000, f"{path} gives its owner's rights away"
        if str(path) == "var/lib/chat-bridge":
            assert (owner, mode) == ((USER, USER), 0o750)
        elif str(path) == "tmp":
            assert (owner, mode) == ((0, 0), 0o1777)
        else:
            assert owner == (0, 0) and (not mode & 0o022 or stat.S_ISLNK(about.st_mode)), f"{path}: {owner}, {mode:o}"


def test_it_is_small(image, record_property, capsys):
    size = image.inspect["Size"] / 2**20
    program = (image.root / PROGRAM).stat().st_size / 2**20
    record_property("image_mib", round(size, 1))
    with capsys.disabled():
        print(f"\nimage {size:.1f} MiB, of it the program {program:.1f} MiB; at most {SIZE_MAX_MIB} MiB")
    assert size < SIZE_MAX_MIB


def test_the_program_is_stripped(image):
    sections = elf.sections((image.root / PROGRAM).read_bytes())
    # `.debug_gdb_scripts` is the name of a script, which Rust's own library brings.
    assert not [name for name in sections if name == ".symtab" or name.startswith(".debug") and name != ".debug_gdb_scripts"]
    assert sections[".text"]


def test_authorities_and_names_are_there(image):
    assert (image.root / "etc/ssl/certs/ca-certificates.crt").read_text().count("BEGIN CERTIFICATE") > 100
    assert f"nonroot:x:{USER}:{USER}:" in (image.root / "etc/passwd").read_text()
    assert "hosts: files dns" in (image.root / "etc/nsswitch.conf").read_text()
    assert "Apache License" in (image.root / "usr/share/doc/chat-bridge/LICENSE").read_text()


def test_scanners_know_the_packages_of_its_libraries(image):
    packages = image.packages()
    assert {"libc6", "libgcc-s1", "ca-certificates"} <= set(packages) and all(packages.values())
    for package in packages:
        assert (image.root / f"usr/share/doc/{package}/copyright").stat().st_size > 0


@pytest.fixture(scope="session")
def audited(image):
    return elf.dependencies((image.root / PROGRAM).read_bytes())


def test_the_program_tells_its_crates(audited):
    (root,) = [crate for crate in audited if crate.get("root")]
    assert (root["name"], root["version"]) == (manifest()["name"], manifest()["version"])
    crates = {(crate["name"], crate["version"]) for crate in audited}
    assert crates <= locked()
    # What brings C into the program, and what a test alone needs.
    names = {name for name, _ in crates}
    assert {"rdkafka-sys", "openssl-sys", "zstd-sys", "libmimalloc-sys", "tokio", "rustls"} <= names
    assert not {"proptest", "fuser"} & names


def test_the_sbom_lists_what_the_program_tells(image, audited):
    sbom = json.loads((image.root / SBOM).read_text())
    assert (sbom["bomFormat"], sbom["specVersion"]) == ("CycloneDX", "1.5")
    about = sbom["metadata"]["component"]
    assert (about["name"], about["version"]) == (manifest()["name"], manifest()["version"])
    listed = {(one["name"], one["version"]) for one in sbom["components"]}
    assert len(listed) > 100 and listed <= locked()
    # Those that only compile something too: that is where OpenSSL's sources come from.
    told = {(crate["name"], crate["version"]) for crate in audited if not crate.get("root")}
    assert told <= listed, told - listed
    assert {"openssl-src", "rdkafka-sys"} <= {name for name, _ in listed}
    assert all(one["purl"].startswith("pkg:cargo/") and one["licenses"] for one in sbom["components"])
    references = {one["bom-ref"] for one in sbom["components"]} | {about["bom-ref"]}
    assert {entry["ref"] for entry in sbom["dependencies"]} <= references
