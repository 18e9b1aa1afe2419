"""Runs a command that is killed when its parent ends: `python -m slimclr.engine.follow PARENT COMMAND...`.

torchrun and srun do not see to that themselves. The command takes this process's place and so keeps its id, which the
processes that it starts find in `PARENT`.
"""

import os
import sys

from slimclr.workers import end_with_parent

PARENT = "SLIMCLR_PARENT"

if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    os.environ[PARENT] = str(os.getpid())
    os.execvp(sys.argv[2], sys.argv[2:])
