"""A small part of `make test-hostile`."""

from tests.helpers.hostile import Starter, Tally, World
from tests.hostile import kills, stops


def test_kills_and_stops(tmp_path):
    tally, world, starter = Tally(), World(tmp_path), Starter()
    kills.run(tally, world, starter, ["convert"], tries=2)
    stops.run(tally, world, starter, ["extract straight", "probe"], tries=4)
    assert tally.failures == []
    assert sum(tried for tried, _ in tally.kinds.values()) == 2 + 2 * 4
