"""Snakemake's command line, asking Slurm every second how its jobs are.

The plugin asks ten seconds later each time that nothing has ended, and no option says otherwise: kind to a cluster, but
long for jobs of seconds.
"""

import sys

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

RemoteExecutor.next_seconds_between_status_checks = property(lambda _: 1, lambda *_: None)

if __name__ == "__main__":
    sys.exit(main())
