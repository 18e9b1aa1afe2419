"""A small part of `make test-hostile`, and a log on a full disk."""

import re
import subprocess
from itertools import islice
from pathlib import Path

import pytest

from tests.helpers.hostile import Starter, Tally, World
from tests.hostile import archives, attack, kills, resources, settings, stops


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Inputs of the stages, and what starts them."""
    return World(tmp_path_factory.mktemp("world")), Starter()


def test_some_of_the_attacks(place):
    tally, (world, starter) = Tally(), place
    attack.run(tally, starter, islice(archives.attacks(world), 5, None, 60))
    attack.run(tally, starter, islice(resources.attacks(world, starter, ["convert"]), 6, None, 7))
    assert tally.failures == []


def test_some_values_of_the_config(tmp_path, monkeypatch):
    tally = Tally()
    monkeypatch.chdir(tmp_path)
    settings.check(tally, tmp_path, every=301)
    assert tally.failures == []


def test_kills_and_stops(place):
    tally, (world, starter) = Tally(), place
    kills.run(tally, world, starter, ["convert"], tries=2)
    stops.run(tally, world, starter, ["extract straight", "probe"], tries=4)
    assert tally.failures == []
    assert sum(tried for tried, _ in tally.kinds.values()) == 2 + 2 * 4


@pytest.mark.parametrize("code", [0, 2, 75])
def test_a_log_without_room_hides_neither_line_nor_exit_code(code):
    rules = Path(__file__).parents[2] / "workflow/rules"
    keep_log = re.search(r"KEEP_LOG = '(.+)'", (rules / "environments.smk").read_text())[1]
    command = f"set -euo pipefail; {keep_log} (echo the line; exit {code}) 2>&1 | keep_log /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, "the line\n")
    assert not [path.name for path in rules.glob("*.smk") if "| tee" in path.read_text()]
