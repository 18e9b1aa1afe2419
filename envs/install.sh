#!/usr/bin/env bash
# envs/install.sh NAME [PREFIX]: install envs/NAME.lock into .venvs/NAME, checked against its hashes. Does nothing when
# that lock is installed already, here and not where the repository lay before; refuses to replace PREFIX, an environment
# in use. Both the Makefile and workflow/rules/environments.smk call it.
# shellcheck disable=SC2016  # what is in single quotes is awk's
set -euo pipefail
name=${1:?usage: envs/install.sh NAME [PREFIX]}
in_use=${2:-}
cd "$(dirname "$0")/.."
lock=envs/$name.lock
venv=.venvs/$name
marker=$venv/installed.sha256
[ -f "$lock" ] || { echo "envs/install.sh: no such environment: $name (there is no $lock)" >&2; exit 2; }

wanted=$(sha256sum <"$lock" | cut -d' ' -f1)
# An environment's commands hold its place, which a link in it names: moved, none of them would run.
installed() {
  [ "$(cat "$marker" 2>/dev/null)" = "$wanted" ] && { [ ! -L "$venv/place" ] || [ "$venv/place" -ef "$venv" ]; }
}
# Also where .venvs may not be written to.
installed && exit 0
mkdir -p .venvs
exec 9>".venvs/$name.lock"
flock 9
installed && exit 0
# Snakemake itself runs in one of these environments: taking it away under its feet would break every later job.
if [ -n "$in_use" ] && [ "$(readlink -f "$venv")" = "$(readlink -f "$in_use")" ]; then
  echo "envs/install.sh: .venvs/$name is not $lock in this place, and Snakemake runs in it: run 'make .venvs/$name' first" >&2
  exit 1
fi

if [ "$name" = detection ] && [ "${FORCE_CUDA:-0}" = 1 ]; then
  # All of mmcv's own operators, for GPUs. Its build stops with a traceback without nvcc, which torch looks for in these
  # places; the major version must be that of torch's CUDA.
  toolkit=${CUDA_HOME:-${CUDA_PATH:-}}
  nvcc=$([ -n "$toolkit" ] && echo "$toolkit/bin/nvcc" || command -v nvcc || echo /usr/local/cuda/bin/nvcc)
  case $("$nvcc" --version 2>/dev/null) in
  *"release 13."*) ;;
  *)
    echo "envs/install.sh: mmcv's operators for GPUs need nvcc of CUDA 13, which $nvcc is not: load the CUDA 13 toolkit," \
      "or run 'make .venvs/detection' without FORCE_CUDA, which takes torchvision's operators" >&2
    exit 1
    ;;
  esac
fi

if command -v uv >/dev/null; then
  uv=uv
else
  # uv from pip, in an environment of its own, so that a machine with nothing but Python is enough
  uv=$PWD/.venvs/uv/bin/uv
  (
    flock 8
    if [ ! -x "$uv" ] || ! cmp --silent envs/uv.lock .venvs/uv/installed; then
      python3 -m venv .venvs/uv
      .venvs/uv/bin/python -m pip install --quiet --require-hashes --no-deps -r envs/uv.lock
      cp envs/uv.lock .venvs/uv/installed
    fi
  ) 8>.venvs/uv.lock
fi

rm -rf "$venv"
"$uv" venv --quiet --python 3.11 "$venv"
export VIRTUAL_ENV=$PWD/$venv PATH=$PWD/$venv/bin:$PATH
install=("$uv" pip install --quiet)

case $name in
detection)
  rows() { # awk condition on a requirement's first line
    awk "/^[a-z]/ {keep = ($1)} keep" "$lock"
  }
  # What is built from source is built with the build tools of the lock. uv's cache does not know whether torch was there:
  # the setting, which setuptools ignores, keeps the two kinds of mmcv apart.
  rows '$1 ~ /^(setuptools|wheel|ninja|packaging)==/' | "${install[@]}" --require-hashes --no-deps -r /dev/stdin
  if [ "${FORCE_CUDA:-0}" = 1 ]; then
    echo "envs/install.sh: compiling mmcv's ops (10 to 20 minutes on 2 cores, longer for GPUs)" >&2
    rows '$1 !~ /^onedl-/' | "${install[@]}" --require-hashes --no-deps -r /dev/stdin
    install+=(--config-settings-package onedl-mmcv:operators=gpu)
    export CFLAGS="-O1 -g0" MAX_JOBS="${MAX_JOBS:-$(nproc)}"
  else
    # Before torch is there mmcv compiles nothing; torchvision's operators take the place of those that a detector needs.
    install+=(--config-settings-package onedl-mmcv:operators=none)
    rows '$1 ~ /^onedl-mmcv==/' | "${install[@]}" --require-hashes --no-deps --no-build-isolation -r /dev/stdin
    rows '$1 !~ /^onedl-/' | "${install[@]}" --require-hashes --no-deps -r /dev/stdin
  fi
  "${install[@]}" --require-hashes --no-build-isolation-package onedl-mmcv \
    --no-build-isolation-package onedl-mmdetection -r "$lock"
  [ "${FORCE_CUDA:-0}" = 1 ] || cp slimclr/detection/operators.py "$venv"/lib/python3.11/site-packages/mmcv/_ext.py
  ;;
*)
  "${install[@]}" --require-hashes -r "$lock"
  ;;
esac
"${install[@]}" --no-deps --no-build-isolation --editable .
ln -sfn "$PWD/$venv" "$venv/place"
printf '%s\n' "$wanted" >"$marker.part"
mv "$marker.part" "$marker"
