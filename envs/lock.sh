#!/usr/bin/env bash
# Renew every envs/NAME.lock from envs/NAME.in. The order matters: dev takes the versions of train.
set -euo pipefail
cd "$(dirname "$0")"
uv=$(command -v uv || echo "$PWD/../.venvs/uv/bin/uv")
for name in uv train dev detection recordio; do
  "$uv" pip compile --quiet --upgrade --universal --generate-hashes --python-version 3.11 \
    --custom-compile-command "make lock" "$name.in" -o "$name.lock"
done
