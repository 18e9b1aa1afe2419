"""Names of folders that a program in the chain cannot take, and those that it can."""

from pathlib import Path

import pytest

from slimclr import places
from slimclr.errors import UserError

FINE = Path("/data/wörk_1.2/a-b+c@d%e=f")


@pytest.mark.parametrize("name", ["a{run}", "a}", "<results>", "a\tb"])
def test_what_snakemake_takes_for_its_own(name):
    with pytest.raises(ValueError, match="which Snakemake takes for its own; rename or link that folder"):
        places.in_pattern(name)


def test_quotes_dollars_and_spaces_are_fine_in_a_path_of_the_config():
    name = '/my "wörk" it\'s $HOME `id`, a:b\\c'
    assert places.in_pattern(name) == name


@pytest.mark.parametrize("name", ["a,b", "a:b", "a\\b"])
def test_apptainers_lists(name):
    with pytest.raises(UserError, match="apptainer binds no folder with"):
        places.in_container([Path("/x"), Path("/") / name], working=FINE)


@pytest.mark.parametrize("name", ["it's", 'a"b', "a:b"])
def test_apptainer_does_not_start_in(name):
    with pytest.raises(UserError, match="apptainer cannot start in a folder with"):
        places.in_container([FINE], working=Path("/") / name)


def test_apptainer_takes_spaces_and_quotes():
    places.in_container([FINE, Path('/my "data" it\'s $HOME')], working=Path("/my wörk $HOME"))


def test_an_image_below_the_working_directory_needs_no_quotes():
    folder = Path("/my repository")
    assert places.image_file(folder / "containers/train.sif", working=folder) == "containers/train.sif"
    with pytest.raises(UserError, match=r"no image with ' ' in its path; run in the repository's folder"):
        places.image_file(folder / "containers/train.sif", working=FINE)
    assert places.image_file(FINE / "train.sif", working=folder) == str(FINE / "train.sif")


def test_slurm():
    places.on_cluster(FINE / "python", [Path("/my wörk/Snakefile")], working=Path("/a, b"))
    with pytest.raises(UserError, match=r"/my repository/.venvs/train/bin/python: Snakemake submits no job to Slurm"):
        places.on_cluster(Path("/my repository/.venvs/train/bin/python"), [FINE], working=FINE)
    for name in ("it's", 'a"b', "$HOME", "a`b", "a\\b"):
        for snakefile, working in ((Path("/") / name / "Snakefile", FINE), (FINE, Path("/") / name)):
            with pytest.raises(UserError, match=r"/\S+: Snakemake submits no job to Slurm with"):
                places.on_cluster(FINE, [snakefile], working=working)
