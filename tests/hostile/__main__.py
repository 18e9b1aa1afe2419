"""`make test-hostile`: kills, stops and orphans of every stage; prints what was tried and what held, as Markdown.

In an environment with mmdet the transfer alone is tried, in any other all the rest.
"""

import argparse
import os
import tempfile
from pathlib import Path

from tests.helpers.hostile import MMDET, Starter, Tally, World
from tests.hostile import kills, orphans, stops


def main() -> int:
    """The exit code: 1 where something did not hold."""
    parser = argparse.ArgumentParser(prog="tests.hostile", description=__doc__)
    parser.add_argument("--kills", type=int, default=15, help="of each stage (default 15)")
    parser.add_argument("--stops", type=int, default=100, help="of each stage, half of them SIGUSR1 (default 100)")
    parser.add_argument("--orphans", type=int, default=20, help="of each stage (default 20)")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    trained = ["transfer"] if MMDET else ["pretrain", "probe"]
    others = [] if MMDET else ["extract", "extract straight", "convert", "import", "report"]
    # In memory where that is possible: what a disk takes to write is no part of this.
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        tally, world, starter = Tally(), World(Path(folder)), Starter()
        kills.run(tally, world, starter, [*others, *trained], tries=options.kills)
        stops.run(tally, world, starter, [*others, *trained], tries=options.stops)
        orphans.run(tally, world, starter, [*others, *trained], tries=options.orphans)
        if not MMDET:
            for whom in ("launcher", "shell", "parent"):
                orphans.run_launched(tally, world, tries=options.orphans, whom=whom)
    print(tally.table())
    return int(bool(tally.failures))


if __name__ == "__main__":
    raise SystemExit(main())
