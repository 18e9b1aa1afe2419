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

# Build tools first, for the few packages that are built from source.
rows '$1 ~ /^(setuptools|wheel|ninja|packaging)==/'
install -r /build/rows.txt
if [ -x /cuda/usr/local/cuda/bin/nvcc ]; then
  # A base with CUDA's toolkit gives mmcv's own operators; 7.5 and up is what torch's CUDA 13 build supports.
  export CUDA_HOME=/cuda/usr/local/cuda FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST="7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"
elif [ "$name" = detection ]; then
  # Before torch is there mmcv compiles nothing; torchvision's operators take the place of those that a detector needs.
  rows '$1 ~ /^onedl-mmcv==/'
  install -r /build/rows.txt
fi
rows '$1 !~ /^onedl-mm(cv|detection)==/'
install -r /build/rows.txt
purelib=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

if [ "$name" = detection ]; then
  if [ -n "${FORCE_CUDA:-}" ]; then
    echo "install.sh: compiling mmcv's operators for GPUs (more than 20 minutes on 2 cores)"
    export CFLAGS="-O1 -g0" MAX_JOBS="${MAX_JOBS:-$(nproc)}"
  fi
  install -r "$lock"
  [ -n "${FORCE_CUDA:-}" ] || cp /build/operators.py "$purelib/mmcv/_ext.py"
  # The lock has opencv twice, and the one for desktops needs libraries of a desktop: the other one's files go last.
  rows '$1 ~ /^opencv-python-headless==/'
  install --force-reinstall -r /build/rows.txt
fi

# Byte code that does not hold the time of its source, so that two builds give the same files. Some packages ship files
# for other versions of Python, which do not compile.
"$python" -m compileall -f -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib >/dev/null || true

# slimclr itself lies in /opt/slimclr; what points there never changes, so a new commit does not copy the packages again.
echo /opt/slimclr >"$purelib/slimclr.pth"
cat >/opt/venv/bin/slimclr <<'END'
#!/opt/venv/bin/python
import sys

from slimclr.cli import main

sys.exit(main())
END
chmod 755 /opt/venv/bin/slimclr
