"""A small part of `make test-hostile`, and a log on a full disk."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.helpers.hostile import Starter, Tally, World
from tests.hostile import kills, stops


def test_kills_and_stops(tmp_path):
    tally, world, starter = Tally(), World(tmp_path), Starter()
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
