"""The files that images are built from agree with each other; building itself is tests/containers/run.sh."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from slimclr.locks import locked_versions

ROOT = Path(__file__).parents[2]
IMAGES = yaml.safe_load((ROOT / "containers/images.yaml").read_text())
BUILT = ("train", "detection", "recordio")


def dockerfile(name):
    return (ROOT / f"containers/{name}.Dockerfile").read_text()


def shell(script):
    """What build.sh's functions print; its commands are left out."""
    functions = (ROOT / "containers/build.sh").read_text().split("\ncommand=${1:?")[0]
    code = functions.replace('cd "$(dirname "$0")/.."', f"cd '{ROOT}'") + "\n" + script
    return subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("key", ["sif", "reference", "tag", "digest"])
def test_the_script_reads_images_yaml_as_yaml_does(name, key):
    assert shell(f"field {name} {key}").strip() == (IMAGES[name][key] or "")


def test_bases_are_pinned_and_unpublished_images_have_no_digest():
    for name, entry in IMAGES.items():
        if name in ("base", "cuda"):
            assert re.fullmatch(r"sha256:[0-9a-f]{64}", entry["digest"])
        elif entry["reference"] is None:
            assert entry["digest"] is None


@pytest.mark.parametrize("name", BUILT)
def test_bases_are_those_of_images_yaml(name):
    defaults = dict(re.findall(r"^ARG (BASE|CUDA)=(\S+)$", dockerfile(name), re.MULTILINE))
    for argument, default in defaults.items():
        entry = IMAGES[argument.lower()]
        assert default == f"{entry['reference']}@{entry['digest']}"
    assert "BASE" in defaults


@pytest.mark.parametrize("name", BUILT)
def test_images_hold_nothing_but_their_lock_and_test_themselves(name):
    text = dockerfile(name)
    runtime = text.rsplit("FROM ${BASE}\n", 1)[1]
    assert f"envs/{name}.lock" in text
    assert "slimclr doctor --image" in runtime
    assert runtime.rindex("USER 10001") > runtime.rindex("RUN ")
    assert not re.search(r"g\+\+|gcc|python3-dev|pip ", runtime)
    assert re.search(rf"^    SLIMCLR_IMAGE={name}$", runtime, re.MULTILINE)
    for label in ("title", "description", "licenses", "version", "revision", "created", "base.name", "base.digest"):
        assert f"org.opencontainers.image.{label}=" in runtime


def build(*arguments, **environment):
    return subprocess.run(
        [ROOT / "containers/build.sh", *arguments], env=os.environ | environment, capture_output=True, text=True
    )


def test_nothing_to_build_with_is_one_line():
    done = build("images", SLIMCLR_ENGINE="nowhere-engine")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("containers/build.sh: none of docker, podman and buildah works here; install one of them")


def test_an_unknown_image_or_command_is_one_line():
    assert "no such image: nowhere" in build("images", "nowhere").stderr
    assert "no such command: nothing" in build("nothing").stderr


@pytest.fixture
def lock(tmp_path):
    """`build.sh lock` in a copy, with a make-believe client; gives what it says, images.yaml and a Dockerfile."""
    copy = tmp_path / "copy/containers"
    copy.mkdir(parents=True)
    for path in (ROOT / "containers/build.sh", ROOT / "containers/images.yaml", *ROOT.glob("containers/*.Dockerfile")):
        shutil.copy(path, copy)
    client = tmp_path / "skopeo"
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def run(script):
        client.write_text(f"#!/bin/sh\n{script}\n")
        client.chmod(0o755)
        done = subprocess.run([copy / "build.sh", "lock"], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        images = yaml.safe_load((copy / "images.yaml").read_text())
        return done.stdout.splitlines(), images, (copy / "detection.Dockerfile").read_text()

    return run


@pytest.mark.parametrize("script", ["echo no route to host >&2; exit 1", "echo not a digest"])
def test_no_registry_leaves_digests_alone_in_one_line(lock, script):
    (line,), images, text = lock(script)
    assert line.startswith("not resolved, their digests stay as they are (is skopeo, docker or podman here, and the")
    assert line.endswith(
        ": " + " ".join(f"{IMAGES[name]['reference']}:{IMAGES[name]['tag']}" for name in ("base", "cuda"))
    )
    assert (images, text) == (IMAGES, dockerfile("detection"))


def test_a_registry_confirms_what_is_locked(lock):
    said, images, text = lock(
        f"case $* in *python*) echo {IMAGES['base']['digest']};; *) echo {IMAGES['cuda']['digest']};; esac"
    )
    assert said == [
        f"{name}: {IMAGES[name]['reference']}@{IMAGES[name]['digest']}, as locked" for name in ("base", "cuda")
    ]
    assert (images, text) == (IMAGES, dockerfile("detection"))


@pytest.mark.parametrize(("old", "told"), [("echo yes", "is there, too"), ("exit 1", "the registry does not have")])
def test_a_tag_that_moved_on_is_written_and_told(lock, old, told):
    new = f"sha256:{'a' * 64}"
    (line, _), images, text = lock(f"case $* in *@sha256:*) {old};; *) echo {new};; esac")
    reference, locked = IMAGES["base"]["reference"], IMAGES["base"]["digest"]
    assert line == f"base: {reference}@{new}, written instead of {locked}, which {told}"
    assert images["base"]["digest"] == images["cuda"]["digest"] == new
    assert images["train"] == IMAGES["train"]
    assert f"\nARG BASE={reference}@{new}\nARG CUDA={IMAGES['cuda']['reference']}@{new}\n" in text


def test_the_build_starts_from_the_digests(tmp_path):
    """With a make-believe engine that writes down what it is given."""
    client = tmp_path / "docker"
    client.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    client.chmod(0o755)
    done = build("images", "detection", SLIMCLR_ENGINE="docker", PATH=f"{tmp_path}:{os.environ['PATH']}")
    said = done.stdout.splitlines()
    assert f"BASE={IMAGES['base']['reference']}@{IMAGES['base']['digest']}" in said
    assert f"BASE_DIGEST={IMAGES['base']['digest']}" in said
    assert f"CUDA={IMAGES['cuda']['reference']}@{IMAGES['cuda']['digest']}" in said


FAKE_PYTHON = """#!/bin/sh
# venv: a python, and a pip that writes down the requirements that it is given
case "$*" in
"-m venv"*)
  for last; do :; done
  mkdir -p "$last/bin" "$last/lib"
  cp "$0" "$last/bin/python"
  cp "$0" "$last/bin/pip";;
*" install "*) echo "$@" >>{out}/calls; for last; do :; done; cat "$last" >>{out}/given;;
*sysconfig*) echo {out};;
esac
"""


@pytest.mark.parametrize("name", BUILT)
def test_an_image_is_given_every_package_of_its_lock_and_nothing_else(name, tmp_path):
    build, venv = tmp_path / "build", tmp_path / "venv"
    build.mkdir()
    text = (ROOT / f"envs/{name}.lock").read_text()
    (build / f"{name}.lock").write_text(text)
    script = (
        (ROOT / "containers/install.sh").read_text().replace("/build/", f"{build}/").replace("/opt/venv", str(venv))
    )
    (tmp_path / "install.sh").write_text(script.replace("/cuda/", f"{tmp_path}/cuda/"))
    (build / "operators.py").touch()
    (tmp_path / "mmcv").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").write_text(FAKE_PYTHON.format(out=tmp_path))
    (tmp_path / "bin/python3").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    subprocess.run(["sh", tmp_path / "install.sh", name], env=environment, check=True, capture_output=True)
    assert locked_versions((tmp_path / "given").read_text()) == locked_versions(text)
    for call in (tmp_path / "calls").read_text().splitlines():
        assert "--no-deps --require-hashes" in call
    assert (tmp_path / "mmcv/_ext.py").exists() == (name == "detection")
    # the same file goes into the image, where `slimclr doctor --image` compares it with what is installed
    assert f"COPY containers/install.sh envs/{name}.lock " in dockerfile(name)
    assert "\nCOPY envs envs\n" in dockerfile(name).rsplit("FROM ${BASE}\n", 1)[1]


@pytest.mark.parametrize("name", BUILT)
def test_the_installed_environment_is_its_lock_as_an_image_is(name):
    venv = ROOT / ".venvs" / name
    if not (venv / "installed.sha256").exists():
        pytest.skip(f"{venv} is not installed")
    code = (
        "import sys; from pathlib import Path; from slimclr.doctor.packages import check_versions\n"
        "finding = check_versions(Path(sys.argv[1]).read_text())\n"
        "print(finding.level, finding.text)"
    )
    done = subprocess.run(
        [venv / "bin/python", "-c", code, ROOT / f"envs/{name}.lock"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("ok "), done.stdout + done.stderr
