"""`make test-hostile`: what a hostile user, disk or machine may do to every stage; prints what was tried and what held.

In an environment with mmdet the transfer alone is tried, in any other all the rest. The table comes as Markdown.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from pathlib import Path

from tests.helpers.hostile import MMDET, Starter, Tally, World
from tests.hostile import archives, attack, damages, kills, orphans, pairs, resources, settings, stops

STAGES = ["transfer"]
if not MMDET:
    STAGES = ["extract", "extract straight", "convert", "import", "pretrain", "probe", "quick", "finetune", "report"]
LAUNCHED = ["transfer"] if MMDET else ["pretrain", "probe"]
GROUPS = ["kills", "stops", "orphans", "twice", "resources", "damages", "archives", "edges", "config"]
if MMDET:
    GROUPS = [group for group in GROUPS if group not in ("archives", "config")]


def main() -> int:
    """The exit code: 1 where something did not hold."""
    parser = argparse.ArgumentParser(prog="tests.hostile", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS, help="these groups (default: all)")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="these stages (default: all)")
    parser.add_argument("--kills", type=int, default=15, help="of each stage (default 15)")
    parser.add_argument("--stops", type=int, default=100, help="of each stage, half of them SIGUSR1 (default 100)")
    parser.add_argument("--orphans", type=int, default=20, help="of each stage (default 20)")
    parser.add_argument("--twice", type=int, default=4, help="of each stage (default 4)")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every N-th of the others (default 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table there, as JSON")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    # In memory where that is possible: what a disk takes to write is no part of this.
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        tally, world, starter = Tally(), World(Path(folder)), Starter()
        tasks: list[tuple[str, Callable[[], None]]] = []

        def attacks(made: Iterable[attack.Attack]) -> Callable[[], None]:
            return lambda: attack.run(tally, starter, islice(made, 0, None, options.every))

        for stage in options.stages:
            tasks.append(("kills", partial(kills.run, tally, world, starter, [stage], tries=options.kills)))
            tasks.append(("stops", partial(stops.run, tally, world, starter, [stage], tries=options.stops)))
            tasks.append(("orphans", partial(orphans.run, tally, world, starter, [stage], tries=options.orphans)))
            for whom in ("launcher", "shell", "parent") if stage in LAUNCHED else ():
                launched = partial(orphans.run_launched, tally, world, tries=options.orphans, whom=whom, stage=stage)
                tasks.append(("orphans", launched))
            tasks.append(("twice", partial(pairs.run, tally, world, starter, [stage], tries=options.twice)))
            tasks.append(("resources", attacks(resources.attacks(world, starter, [stage]))))
        tasks.append(("damages", attacks(damages.attacks(world, starter))))
        tasks.append(("archives", attacks(archives.attacks(world))))
        tasks.append(("edges", attacks(settings.trained(world))))
        tasks.append(("config", partial(settings.run, tally, world.folder / "config", every=options.every)))
        for group, task in tasks:
            if group in options.only:
                task()
                if options.json:  # each time: all of it takes hours
                    options.json.write_text(json.dumps(tally.kinds, indent=2))
    print(tally.table())
    return int(bool(tally.failures))


if __name__ == "__main__":
    raise SystemExit(main())
