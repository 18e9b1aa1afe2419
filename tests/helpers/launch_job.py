"""`slimclr` with two processes on this machine's CPU, launched and signalled as on GPUs."""

import os
import sys

from slimclr.engine.distributed import TORCHRUN_OPTIONS, _run

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *TORCHRUN_OPTIONS]
TORCHRUN += ["-m", "slimclr"]

if __name__ == "__main__":
    sys.exit(_run([*TORCHRUN, *sys.argv[1:]], os.environ))
