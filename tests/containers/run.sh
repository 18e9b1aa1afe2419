#!/usr/bin/env bash
# tests/containers/run.sh: build the images without a registry, run their self-tests, run the demo's DAG in them and compare
# its tables with those of a run without containers. Skips with the reason where a part cannot be had.
#
#   BASE=PATH              root file system to build from; else one is made with mmdebstrap
#   SLIMCLR_TEST_FOLDER    where it works; kept. Else a folder in /var/lib, removed at the end: neither below /tmp nor below
#                          the repository, where a bind that is missing would not be noticed
#   SLIMCLR_TEST_BUILD=0   takes the containers/*.sif that are there
#   SLIMCLR_TABLES         tables.csv of a run of the demo without containers; else it is run here
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
tools=$root/../shared/tools
passed=0

skip() {
  echo "tests/containers: skipped: $*"
  echo "0 passed, 0 failed, 1 skipped"
  exit 0
}
fail() {
  echo "tests/containers: FAILED: $*" >&2
  echo "$passed passed, 1 failed"
  exit 1
}
pass() {
  passed=$((passed + 1))
  echo "tests/containers: passed: $*"
}
need() { # PROGRAM PACKAGE: on PATH, or from Debian's packages
  command -v "$1" >/dev/null && return
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
  [ -n "${updated:-}" ] || apt-get update -qq >/dev/null 2>&1
  updated=yes
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >/dev/null 2>&1
}

for name in train detection; do
  [ -e "$root/.venvs/$name/installed.sha256" ] || skip ".venvs/$name is not installed (make .venvs/$name)"
done
if [ -n "${SLIMCLR_TEST_FOLDER:-}" ]; then
  folder=$SLIMCLR_TEST_FOLDER
  mkdir -p "$folder"
else
  folder=$(mktemp -d /var/lib/slimclr-containers.XXXXXX 2>/dev/null) || skip "no folder can be made in /var/lib; set SLIMCLR_TEST_FOLDER"
  trap 'rm -rf "$folder"' EXIT
fi
free=$(df --output=avail -B1G "$folder" | tail -n 1)
[ "${SLIMCLR_TEST_BUILD:-1}" = 0 ] || [ "$free" -ge 45 ] || skip "$free GB are free at $folder; building takes about 45"

if ! command -v apptainer >/dev/null; then
  [ -x "$tools/get-apptainer" ] && [ "$(id -u)" = 0 ] || skip "apptainer is not on PATH"
  "$tools/get-apptainer" "$folder/apptainer" >"$folder/apptainer.log" 2>&1 || skip "apptainer could not be installed: $(tail -n 1 "$folder/apptainer.log")"
  PATH=$folder/apptainer/bin:$PATH
fi
build=${SLIMCLR_TEST_BUILD:-1}
if [ "$build" = 1 ]; then
  docker info >/dev/null 2>&1 || podman info >/dev/null 2>&1 || need buildah buildah || skip "none of docker, podman and buildah is here"
  if [ -z "${BASE:-}" ]; then
    need mmdebstrap mmdebstrap || skip "no root file system to build from: set BASE, or install mmdebstrap"
    BASE=$folder/base.tar
    [ -e "$BASE" ] || mmdebstrap --quiet --variant=minbase --include=python3-venv,ca-certificates \
      --dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
      --dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$BASE" || skip "mmdebstrap could not fetch Debian"
  fi

  # OCI's isolation needs cgroups that not every machine gives to root.
  export BASE BUILDAH_ISOLATION=${BUILDAH_ISOLATION:-chroot}
fi
for name in train detection recordio; do
  [ "$build" = 0 ] || "$root/containers/build.sh" sif "$name" >"$folder/$name.log" 2>&1 ||
    { tail -n 20 "$folder/$name.log" >&2 && fail "$name.sif could not be built"; }
  apptainer --silent exec --cleanenv "$root/containers/$name.sif" slimclr doctor --image ||
    fail "the self-test of $name.sif"
  pass "$name.sif, $(du -h "$root/containers/$name.sif" | cut -f1), and its self-test"
done

demo() { # FOLDER OPTION...: the demo's DAG
  mkdir -p "$1"
  (cd "$1" && "$root/.venvs/train/bin/snakemake" all --snakefile "$root/Snakefile" --profile "$root/local" \
    --resources gpu=0 --configfile "$root/config/demo.yaml" "${@:2}") >"$1.log" 2>&1 ||
    { tail -n 40 "$1.log" >&2 && fail "the demo in $1"; }
}
# What must not come into a container, and would break Python there if it did.
PYTHONHOME=/nowhere-on-the-host apptainer --silent exec --cleanenv "$root/containers/train.sif" python -c '' ||
  fail "the environment of the host reaches the container"
demo "$folder/containers" --sdm apptainer
for file in "$folder"/containers/demo/results/*/*/metrics.json; do
  grep -q '"command": "/opt/venv/bin/' "$file" || fail "$file was not made in a container"
done
pass "the demo in containers: $(find "$folder/containers/demo/results" -name metrics.json | wc -l) results"

tables=${SLIMCLR_TABLES:-$folder/venvs/demo/results/report/tables.csv}
[ -n "${SLIMCLR_TABLES:-}" ] || demo "$folder/venvs"
cmp "$tables" "$folder/containers/demo/results/report/tables.csv" || fail "tables.csv differs from that without containers"
pass "tables.csv is the same as without containers"
echo "$passed passed, 0 failed"
