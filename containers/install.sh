#!/bin/sh
# install.sh NAME: /build/NAME.lock into /opt/venv, checked against its hashes. Runs in the build stage of the Dockerfiles.
# shellcheck disable=SC2016  # what is in single quotes is awk's
set -eu
name=$1
lock=/build/$name.lock
python=/opt/venv/bin/python

# pip lives beside the environment and stays behind in the build stage.
python3 -m venv /build/pip
python3 -m venv --without-pip /opt/venv
# Nothing is fetched that the lock does not name: no dependencies, no isolated builds.
install() {
  /build/pip/bin/pip --python "$python" install --no-compile --no-deps --require-hashes --no-build-isolation \
    --progress-bar off --quiet "$@"
}
rows() { # awk condition on a requirement's first line
  awk "/^[a-z]/ {keep = ($1)} keep" "$lock" >/build/rows.txt
}

# Build tools and torch first, for the few packages that are built from source.
rows '$1 ~ /^(setuptools|wheel|ninja)==/'
install -r /build/rows.txt
rows '$1 !~ /^onedl-mm(cv|detection)==/'
install -r /build/rows.txt

if [ "$name" = detection ]; then
  # A base with CUDA's toolkit gives operators for the GPU; 7.5 and up is what torch's CUDA 13 build supports.
  if [ -x /cuda/usr/local/cuda/bin/nvcc ]; then
    export CUDA_HOME=/cuda/usr/local/cuda FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST="7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"
  fi
  wheel=$(find /build/wheels -name 'onedl_mmcv-*.whl' 2>/dev/null | head -n 1)
  if [ -n "$wheel" ] && [ -z "${FORCE_CUDA:-}" ]; then
    echo "install.sh: mmcv from $(basename "$wheel"), operators for the CPU only"
    /build/pip/bin/pip --python "$python" install --no-compile --no-deps --no-index --quiet "$wheel"
  else
    echo "install.sh: compiling mmcv's operators (10 to 20 minutes on 2 cores${FORCE_CUDA:+, longer for GPUs})"
  fi
  MMCV_WITH_OPS=1 CFLAGS="-O1 -g0" MAX_JOBS=${MAX_JOBS:-$(nproc)} install -r "$lock"
  # The lock has opencv twice, and the one for desktops needs libraries of a desktop: the other one's files go last.
  rows '$1 ~ /^opencv-python-headless==/'
  install --force-reinstall -r /build/rows.txt
fi

# Byte code that does not hold the time of its source, so that two builds give the same files. Some packages ship files
# for other versions of Python, which do not compile.
"$python" -m compileall -f -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib >/dev/null || true

# slimclr itself lies in /opt/slimclr; what points there never changes, so a new commit does not copy the packages again.
echo /opt/slimclr >"$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/slimclr.pth"
cat >/opt/venv/bin/slimclr <<'END'
#!/opt/venv/bin/python
import sys

from slimclr.cli import main

sys.exit(main())
END
chmod 755 /opt/venv/bin/slimclr
