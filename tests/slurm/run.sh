#!/usr/bin/env bash
# tests/slurm/run.sh [EXPRESSION]: bring up a Slurm of two nodes, run tests/slurm there two at a time (or those that pytest's
# -k EXPRESSION names), and stop it; its logs stay where a test fails. Skips with the reason where no Slurm can be had.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=$(mktemp -d "${TMPDIR:-/tmp}/slimclr-slurm.XXXXXX")
end() {
  local status=$?
  tests/slurm/cluster.sh stop "$folder"
  [ "$status" != 0 ] || rm -rf "$folder"
}
trap end EXIT
if ! tests/slurm/cluster.sh start "$folder"; then
  echo "tests/slurm: skipped: no Slurm here"
  exit 0
fi
SLIMCLR_TEST_SLURM=1 .venvs/dev/bin/pytest tests/slurm -k "${1:-}" --numprocesses 2 --dist worksteal --durations 0
