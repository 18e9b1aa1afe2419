# SlimCLR: Mask R-CNN on COCO with mmdet
# `make images`; built from envs/detection.lock and nothing else.
# mmcv's operators are compiled in the build stage where CUDA's image has its toolkit; else torchvision's serve.
# A plain Python 3.11: CUDA's runtime comes with torch's wheels. Named in containers/images.yaml, too.
ARG BASE=docker.io/library/python@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b
ARG CUDA=docker.io/nvidia/cuda@sha256:bb3de902bc1b522231cffea98a4d25a16ddb9fc8685a958b48d83036f46fd0c2

# hadolint ignore=DL3006
FROM ${CUDA} AS cuda

# hadolint ignore=DL3006
FROM ${BASE} AS build
# The compiler's version is the base's Debian's; it stays in this stage.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ python3-dev \
 && rm -rf /var/lib/apt/lists/*
COPY containers/install.sh envs/detection.lock slimclr/detection/operators.py /build/
RUN --mount=type=bind,from=cuda,source=/,target=/cuda \
    sh /build/install.sh detection

# hadolint ignore=DL3006
FROM ${BASE}
RUN useradd --create-home --uid 10001 slimclr
# Apptainer keeps these, too. PYTHONNOUSERSITE: nothing out of the user's home.
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONNOUSERSITE=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    SLIMCLR_IMAGE=detection
COPY --from=build /opt/venv /opt/venv
WORKDIR /opt/slimclr
COPY pyproject.toml README.md ./
COPY containers/images.yaml containers/
COPY envs envs
COPY config config
COPY slimclr slimclr
RUN python -W ignore -c 'import setuptools; setuptools.setup()' -q egg_info \
 && python -m compileall -q --invalidation-mode unchecked-hash slimclr \
 && slimclr doctor --image
USER 10001
WORKDIR /home/slimclr
ARG VERSION
ARG REVISION
ARG CREATED
ARG BASE
ARG BASE_DIGEST
LABEL org.opencontainers.image.title="slimclr-detection" \
      org.opencontainers.image.description="SlimCLR: Mask R-CNN on COCO with mmdet" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${BASE}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}"
CMD ["slimclr", "--help"]
