"""The files that images are built from agree with each other; building itself is tests/containers/run.sh."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

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


def test_no_image_has_an_invented_digest():
    for entry in IMAGES.values():
        assert entry["digest"] is None or re.fullmatch(r"sha256:[0-9a-f]{64}", entry["digest"])


@pytest.mark.parametrize("name", BUILT)
def test_bases_are_those_of_images_yaml(name):
    defaults = dict(re.findall(r"^ARG (BASE|CUDA)=(\S+)$", dockerfile(name), re.MULTILINE))
    for argument, default in defaults.items():
        entry = IMAGES[argument.lower()]
        assert default == f"{entry['reference']}:{entry['tag']}"
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


def test_no_registry_leaves_digests_alone(tmp_path):
    """With a registry's client that fails, and with one that answers."""
    copy = tmp_path / "copy/containers"
    copy.mkdir(parents=True)
    for name in ("build.sh", "images.yaml"):
        (copy / name).write_bytes((ROOT / "containers" / name).read_bytes())
    (copy / "build.sh").chmod(0o755)
    client = tmp_path / "skopeo"
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def lock(script):
        client.write_text(f"#!/bin/sh\n{script}\n")
        client.chmod(0o755)
        done = subprocess.run([copy / "build.sh", "lock"], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout, yaml.safe_load((copy / "images.yaml").read_text())

    said, images = lock("echo no route to host >&2; exit 1")
    assert len(said.splitlines()) == 1
    assert images == IMAGES
    said, images = lock("echo not a digest")
    assert images == IMAGES
    said, images = lock(f"echo sha256:{'a' * 64}")
    assert images["base"]["digest"] == f"sha256:{'a' * 64}"
    assert images["train"] == IMAGES["train"]
