"""Checkpoints that recipes name: which are there, which are other files, which were imported already."""

import hashlib
import json

import pytest

from slimclr.absent import MISSING, absent_checkpoints, begin_with_absent, tell
from slimclr.config import Checkpoint, fingerprint

CONTENT = b"weights"
TAILS = {name: hashlib.new(name, CONTENT).hexdigest()[:8] for name in ("sha256", "md5", "sha1")}


def lay(folder, name):
    (folder / "raw/released").mkdir(parents=True, exist_ok=True)
    (folder / "raw/released" / name).write_bytes(CONTENT)
    return Checkpoint(file=name, sha256=None if TAILS["sha256"] in name else hashlib.sha256(CONTENT).hexdigest())


@pytest.mark.parametrize("kind", TAILS)
def test_a_name_ends_in_the_beginning_of_one_of_three_hashes(tmp_path, kind):
    name = f"net-{TAILS[kind]}.pth.tar"
    lay(tmp_path, name)
    assert absent_checkpoints(tmp_path, tmp_path / "raw", {"a": Checkpoint(file=name)}) == {}


def test_the_recipes_hash_takes_the_place_of_the_names(tmp_path):
    own = hashlib.sha256(CONTENT).hexdigest()
    name = "net-00000000.pth"
    lay(tmp_path, name)
    found = {
        run: Checkpoint(file=name, sha256=hash_)
        for run, hash_ in {"named": None, "own": own, "its_beginning": own[:8], "other": "0" * 64}.items()
    }
    faults = absent_checkpoints(tmp_path, tmp_path / "raw", found)
    assert set(faults) == {"named", "other"}
    assert faults["named"].startswith("00000000 in the file's name fits none of its hashes (SHA-256 ")
    assert faults["other"] == f"its SHA-256 is {own}, but {'0' * 64} is expected"
    line = tell(tmp_path / "raw", found["other"], faults["other"])
    assert line.startswith(f"{tmp_path}/raw/released/{name}: its SHA-256 is ")
    assert line.endswith("; download it again, or write the file's own sha256 into the recipe to take it as it is")


def test_a_file_that_was_imported_may_be_gone_and_one_of_another_recipe_may_not(tmp_path):
    checkpoint = Checkpoint(file="net-12345678.pth", url="https://example.org/a")
    runs = {"mine": checkpoint}
    assert absent_checkpoints(tmp_path, tmp_path / "raw", runs) == {"mine": MISSING}
    assert tell(tmp_path / "raw", checkpoint, MISSING) == (
        f"{tmp_path}/raw/released/net-12345678.pth: no such file; download it from https://example.org/a "
        "and lay it there"
    )
    folder = tmp_path / "results/pretrain/mine"
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").touch()
    (folder / "metrics.json").write_text(json.dumps({"stage": "import", "recipe_sha256": fingerprint(checkpoint)}))
    assert absent_checkpoints(tmp_path, tmp_path / "raw", runs) == {}
    # Where it is given out decides nothing, what it must be does.
    assert absent_checkpoints(tmp_path, tmp_path / "raw", {"mine": Checkpoint(file=checkpoint.file)}) == {}
    other = checkpoint.model_copy(update={"method": "probe"})
    assert absent_checkpoints(tmp_path, tmp_path / "raw", {"mine": other}) == {"mine": MISSING}


def test_what_begins_with_an_absent_run_is_left_out_with_it():
    begins = {"b": "a", "c": "b", "d": "other", "e": "d"}
    assert begin_with_absent(begins, ["a"]) == {"b": "a", "c": "b"}
    assert begin_with_absent(begins, []) == {}
