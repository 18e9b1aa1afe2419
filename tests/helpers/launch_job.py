"""`slimclr` with two processes on this machine's CPU, launched, signalled and ended as on GPUs."""

import os
import sys
from collections.abc import Sequence

from slimclr.cli import main
from slimclr.engine import distributed

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
TORCHRUN += [*distributed.TORCHRUN_OPTIONS, "-m", "slimclr"]


def _launch(_: int, arguments: Sequence[str], *, nodes: int = 1) -> int:
    return distributed._run([*TORCHRUN, *arguments], os.environ)


if __name__ == "__main__":
    distributed.launch = _launch
    sys.exit(main())
