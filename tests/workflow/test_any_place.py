"""Where repository, environment and data lie: it reruns nothing, and any name that can work does.

The DAG runs for real; in its environments is a make-believe `slimclr` that prints its words and makes the files.
"""

import copy
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SNAKEMAKE = Path(sys.executable).parent / "snakemake"
RUN = "demo_slimclr.simclr-1"
SLIMCLR = f"""#!{sys.executable}
import json, sys
from pathlib import Path

command, words = sys.argv[1], sys.argv[2:]
print(json.dumps(sys.argv[1:]))
out = Path(words[words.index("--out") + 1])
names = {{
    "miniature": ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz",
                  "coco/annotations/instances_train2017.json", "coco/annotations/instances_val2017.json"],
    "extract": ["manifest.parquet", "data_report.json"],
    "pretrain": ["weights.safetensors", "config.yaml", "metrics.json", "metrics.jsonl", "tensorboard/events"],
    "report": ["index.html", "tables.md", "tables.csv", "tables.tex", "figures/1.svg", "recipes/1.yaml"],
}}
beside = {{"probe": ["classifier.safetensors"], "transfer": ["detector.safetensors", "config.json", "pictures/1.0.jpg"]}}
about = {{"stage": command, "run": words[words.index("--name") + 1] if "--name" in words else None}}
header = json.dumps({{"__metadata__": {{"slimclr": json.dumps(about)}}}}).encode()
made = [out / name for name in names[command]] if command in names else [out]
for path in made + [out.parent / name for name in beside.get(command, [])]:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(about))
    if path.suffix == ".safetensors":
        path.write_bytes(len(header).to_bytes(8, "little") + header)
"""
NOTHING = "Nothing to be done"
ODD = """my "wörk" it's $HOME `id` \\t; &"""


class Place:
    """A repository somewhere, and a folder to run in, with config, data and results."""

    def __init__(self, repository, working, *, raw="raw", work="work"):
        self.repository, self.working, self.raw, self.work = repository, working, raw, work
        repository.mkdir(parents=True)
        for name in ("workflow", "config", "containers", "envs"):
            shutil.copytree(ROOT / name, repository / name, ignore=shutil.ignore_patterns("*.sif"))
        shutil.copy(ROOT / "Snakefile", repository)
        for name in ("train", "detection", "recordio"):
            folder = repository / ".venvs" / name
            (folder / "bin").mkdir(parents=True)
            (folder / "bin/slimclr").write_text(SLIMCLR)
            (folder / "bin/slimclr").chmod(0o755)
            lock = (repository / f"envs/{name}.lock").read_bytes()
            (folder / "installed.sha256").write_text(hashlib.sha256(lock).hexdigest() + "\n")
            (folder / "place").symlink_to(folder)
        working.mkdir(parents=True)
        config = yaml.safe_load((ROOT / "config/demo.yaml").read_text())
        recipes = working / "recipes"
        recipes.mkdir()
        shutil.copy(ROOT / "config/runs/demo_slimclr_simclr.yaml", recipes / f"{RUN}.yaml")
        shutil.copy(ROOT / "config/runs/random_resnet14w16.yaml", recipes)
        config |= {"paths": {"raw": raw, "work": work}, "recipes": str(recipes), "runs": [RUN, "random_resnet14w16"]}
        (working / "config.yaml").write_text(yaml.safe_dump(config))

    def snakemake(self, *options, target="all", snakefile=None, path=()):
        snakefile = snakefile or self.repository / "Snakefile"
        command = [SNAKEMAKE, target, "--profile", ROOT / "local", "--snakefile", snakefile]
        command += ["--cores", "2", "--configfile", "config.yaml", *options]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": ":".join([*map(str, path), os.environ["PATH"]])}
        done = subprocess.run(
            command, cwd=self.working, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        return done.returncode, done.stdout

    def words(self, log):
        """What a job's slimclr was given."""
        return json.loads((self.working / self.work / "logs" / log).read_text().splitlines()[0])


def make_believe_apptainer(folder):
    program = folder / "apptainer"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "apptainer version 1.4.5" && exit\nexit 1\n')
    program.chmod(0o755)
    return program.parent


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("finished") / "repository", tmp_path_factory.mktemp("finished") / "working")
    code, output = place.snakemake()
    assert code == 0, output
    assert "installing" not in output
    return place


@pytest.fixture
def place(finished, tmp_path):
    """Copies of the repository and the working folder where everything is made."""
    other = copy.copy(finished)
    other.repository, other.working = tmp_path / "repository", tmp_path / "working"
    shutil.copytree(finished.repository, other.repository, symlinks=True)
    shutil.copytree(finished.working, other.working, symlinks=True)
    return other


def test_moving_linking_and_containers_rerun_nothing(place, tmp_path):
    assert NOTHING in place.snakemake("-n")[1]

    (tmp_path / "link").symlink_to(tmp_path / "repository")
    assert NOTHING in place.snakemake("-n", snakefile=tmp_path / "link/Snakefile")[1]

    for name in ("train", "detection", "recordio"):
        (place.repository / f"containers/{name}.sif").touch()
    apptainer = make_believe_apptainer(tmp_path / "bin")
    code, output = place.snakemake("-n", "--sdm", "apptainer", path=[apptainer])
    assert NOTHING in output, output

    moved = place.repository.rename(tmp_path / "elsewhere")
    code, output = place.snakemake("-n", snakefile=moved / "Snakefile")
    assert NOTHING in output, output
    # nor does an environment that is missing there
    shutil.rmtree(moved / ".venvs")
    code, output = place.snakemake("-n", snakefile=moved / "Snakefile")
    assert NOTHING in output, output


def test_other_references_rerun_the_report_and_nothing_else(place):
    references = place.repository / "config/references.yaml"
    references.touch()
    assert NOTHING in place.snakemake("-n")[1]
    references.write_text(references.read_text() + "# another figure\n")
    output = place.snakemake("-n")[1]
    assert set(re.findall(r"^(?:local)?rule (\w+):", output, re.MULTILINE)) == {"report", "all"}


INSTALL = """#!/bin/sh
cd "$(dirname "$0")/.."
echo "$1 begins" >>installs
exec 9>.venvs/$1.mutex; flock 9
[ -L .venvs/$1/place ] && exit
[ "$1" = detection ] && until [ -e "{trained}" ]; do sleep 0.1; done
mkdir -p .venvs/$1/bin
cp {slimclr} .venvs/$1/bin/slimclr
ln -sfn "$PWD/.venvs/$1" .venvs/$1/place
sha256sum <envs/$1.lock | cut -d' ' -f1 >.venvs/$1/installed.sha256
"""


def test_a_missing_environment_is_made_while_the_network_trains(tmp_path):
    place = Place(tmp_path / "repository", tmp_path / "working")
    shutil.copy(place.repository / ".venvs/train/bin/slimclr", tmp_path)
    shutil.rmtree(place.repository / ".venvs")
    (place.repository / ".venvs").mkdir()
    trained = place.working / f"work/results/pretrain/{RUN}/weights.safetensors"
    (place.repository / "envs/install.sh").write_text(INSTALL.format(trained=trained, slimclr=tmp_path / "slimclr"))
    code, output = place.snakemake()
    assert code == 0, output
    assert "installing .venvs/detection; log: work/logs/environments/detection.log" in output
    assert not (place.repository / ".venvs/recordio").exists()  # which no job needs
    assert set((place.repository / "installs").read_text().split("\n")) == {"train begins", "detection begins", ""}
    assert NOTHING in place.snakemake("-n")[1]


def test_an_environment_that_cannot_be_made_is_one_line(tmp_path):
    place = Place(tmp_path / "repository", tmp_path / "working")
    shutil.rmtree(place.repository / ".venvs/train")
    (place.repository / "envs/install.sh").write_text("#!/bin/sh\necho no network\nexit 1\n")
    code, output = place.snakemake()
    assert code != 0
    line = "envs/install.sh train failed: no network; the whole log: work/logs/environments/train.log"
    assert line in output
    assert "Traceback" not in output


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".venvs/train/installed.sha256").exists(), reason="needs .venvs/train")
def test_the_real_commands_from_the_miniature_to_the_lmdb(tmp_path):
    place = Place(tmp_path / f"{ODD} {{x}}", tmp_path / ODD, raw=f"raw {ODD}", work=str(tmp_path / f"work {ODD}"))
    shutil.rmtree(place.repository / ".venvs")
    (place.repository / ".venvs").mkdir()
    for name in ("train", "detection"):
        (place.repository / ".venvs" / name).symlink_to((ROOT / ".venvs" / name).resolve())
    lmdb = tmp_path / f"work {ODD}/data/imagenet/val.lmdb"
    code, output = place.snakemake(target=str(lmdb))
    assert code == 0, output
    assert lmdb.stat().st_size > 1_000_000
    assert "images" in (tmp_path / f"work {ODD}/logs/data/convert_val.log").read_text()


def test_any_name_works_for_repository_data_and_results(tmp_path):
    place = Place(tmp_path / f"{ODD} {{x}} <y>", tmp_path / f"in {ODD} {{run}}", raw=f"raw {ODD}", work=f"work/{ODD}")
    before = {path.name for path in place.working.iterdir()}
    code, output = place.snakemake()
    assert code == 0, output
    assert {path.name for path in place.working.iterdir()} == before | {".snakemake", f"raw {ODD}", "work"}
    assert {path.name for path in (place.working / place.work).iterdir()} == {
        *("data", "results", "logs", "benchmarks")
    }
    assert {path.name for path in (place.working / "work").iterdir()} == {ODD}
    extract = place.words("data/extract_val.log")
    assert extract[extract.index("--archive") + 1] == f"raw {ODD}/ILSVRC2012_img_val.tar"
    pretrain = place.words(f"pretrain/{RUN}.log")
    assert pretrain[pretrain.index("--name") + 1] == RUN
    assert pretrain[pretrain.index("--data") + 1] == f"work/{ODD}/data/imagenet/train.lmdb"
    report = place.words("report.log")
    assert report[report.index("--references") + 1] == str(place.repository / "config/references.yaml")
    assert NOTHING in place.snakemake("-n")[1]


def test_every_word_of_a_rules_shell_is_quoted():
    fields = r"\{(?:params|input|output|log|wildcards|resources|threads|benchmark)\b[^{}]*\}"
    bare = []
    for path in (ROOT / "Snakefile", *(ROOT / "workflow/rules").glob("*.smk")):
        for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
            if token.type == tokenize.STRING and not token.string.startswith(("f", "F")):
                words = re.findall(fields, token.string)
                bare += [f"{path.name}:{token.start[0]}: {word}" for word in words if not word.endswith(":q}")]
    assert bare == []


def test_names_that_snakemake_takes_for_its_own_are_refused(tmp_path):
    place = Place(tmp_path / "repository", tmp_path / "working", raw="a{run}b", work="<results>")
    code, output = place.snakemake("-n")
    assert code != 0
    for key, name, found in (("raw", "a{run}b", "{"), ("work", "<results>", "<")):
        (line,) = [line for line in output.splitlines() if f"paths.{key}: " in line]
        assert f"'{name}' has '{found}' in it, which Snakemake takes for its own; rename or link that folder" in line


def test_containers_in_a_repository_with_a_space(tmp_path):
    apptainer = make_believe_apptainer(tmp_path / "bin")
    place = Place(tmp_path / "my repository", tmp_path / "my repository/runs here")
    code, output = place.snakemake("-n", "--sdm", "apptainer", path=[apptainer])
    assert code != 0
    assert f"{place.repository}/containers/train.sif: Snakemake passes on no image with ' ' in its path" in output
    # in the repository's own folder it is a relative path
    for name in ("train", "detection", "recordio"):
        (place.repository / f"containers/{name}.sif").touch()
    (place.working / "config.yaml").rename(place.repository / "config.yaml")
    place.working = place.repository
    code, output = place.snakemake("-n", "--sdm", "apptainer", path=[apptainer])
    assert code == 0, output


def test_what_apptainer_cannot_bind_is_refused(tmp_path):
    apptainer = make_believe_apptainer(tmp_path / "bin")
    place = Place(tmp_path / "repository", tmp_path / "working", raw=str(tmp_path / "a,b"))
    (tmp_path / "a,b").mkdir()
    for name in ("train", "detection"):
        (place.repository / f"containers/{name}.sif").touch()
    code, output = place.snakemake("-n", "--sdm", "apptainer", path=[apptainer])
    assert code != 0
    assert f"{tmp_path}/a,b: apptainer binds no folder with ',' in its name; rename that folder" in output
