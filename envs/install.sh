#!/usr/bin/env bash
# envs/install.sh NAME [PREFIX]: install envs/NAME.lock into .venvs/NAME, checked against its hashes. Does nothing when
# that lock is installed already, here and not where the repository lay before; refuses to replace PREFIX, an environment
# in use. Both the Makefile and workflow/rules/environments.smk call it.
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

if [ "$name" = detection ]; then
  # mmcv's operators are compiled for GPUs where there is one, unless FORCE_CUDA (1 or 0) says otherwise. Its build stops
  # with a traceback without nvcc, which torch looks for in these places; the major version must be that of torch's CUDA.
  [ -e /dev/nvidia0 ] && here=1 || here=0
  export FORCE_CUDA=${FORCE_CUDA:-$here}
  if [ "$FORCE_CUDA" = 1 ]; then
    toolkit=${CUDA_HOME:-${CUDA_PATH:-}}
    nvcc=$([ -n "$toolkit" ] && echo "$toolkit/bin/nvcc" || command -v nvcc || echo /usr/local/cuda/bin/nvcc)
    case $("$nvcc" --version 2>/dev/null) in
    *"release 13."*) ;;
    *)
      echo "envs/install.sh: mmcv's operators for GPUs need nvcc of CUDA 13, which $nvcc is not: load the CUDA 13 toolkit," \
        "or run 'FORCE_CUDA=0 make .venvs/detection' for operators for the CPU only" >&2
      exit 1
      ;;
    esac
  else
    export CUDA_VISIBLE_DEVICES=  # mmcv's build also asks torch for a GPU
  fi
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
  # mmcv's ops are compiled against the installed torch, so torch and the build tools come first, as locked.
  rows=$(awk '/^[a-z]/ {keep = ($1 !~ /^onedl-/)} keep' "$lock")
  "${install[@]}" --require-hashes --no-deps -r /dev/stdin <<<"$rows"
  # A ready wheel saves the 10 to 20 minutes of compiling mmcv; it has operators for the CPU only.
  wheels=${SLIMCLR_WHEELS:-}
  if [ "$FORCE_CUDA" != 1 ] && [ -n "$wheels" ] && compgen -G "$wheels/onedl_mmcv-*.whl" >/dev/null; then
    "${install[@]}" --no-deps "$wheels"/onedl_mmcv-*.whl
  else
    echo "envs/install.sh: compiling mmcv's ops (10 to 20 minutes on 2 cores)" >&2
  fi
  # uv's cache does not know the environment: without a setting of its own, which setuptools ignores, a build for GPUs
  # would be an earlier one for the CPU.
  [ "$FORCE_CUDA" != 1 ] || install+=(--config-settings-package onedl-mmcv:operators=gpu)
  MMCV_WITH_OPS=1 CFLAGS="-O1 -g0" MAX_JOBS=${MAX_JOBS:-$(nproc)} "${install[@]}" --require-hashes \
    --no-build-isolation-package onedl-mmcv --no-build-isolation-package onedl-mmdetection -r "$lock"
  ;;
*)
  "${install[@]}" --require-hashes -r "$lock"
  ;;
esac
"${install[@]}" --no-deps --no-build-isolation --editable .
ln -sfn "$PWD/$venv" "$venv/place"
printf '%s\n' "$wanted" >"$marker.part"
mv "$marker.part" "$marker"
