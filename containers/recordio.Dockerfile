# SlimCLR: writing RecordIO with mxnet
# `make images`; built from envs/recordio.lock and nothing else.
# A plain Python 3.11: CUDA's runtime comes with torch's wheels. Named in containers/images.yaml, too.
ARG BASE=docker.io/library/python@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

# hadolint ignore=DL3006
FROM ${BASE} AS build
COPY containers/install.sh envs/recordio.lock /build/
RUN sh /build/install.sh recordio

# hadolint ignore=DL3006
FROM ${BASE}
# mxnet's wheel expects GNU's OpenMP and quad maths on the system.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgomp1 libquadmath0 \
 && rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log /var/cache/apt/*.bin /var/cache/ldconfig/aux-cache \
 && useradd --create-home --uid 10001 slimclr
# Apptainer keeps these, too. PYTHONNOUSERSITE: nothing out of the user's home.
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONNOUSERSITE=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    SLIMCLR_IMAGE=recordio
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
LABEL org.opencontainers.image.title="slimclr-recordio" \
      org.opencontainers.image.description="SlimCLR: writing RecordIO with mxnet" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${BASE}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}"
CMD ["slimclr", "--help"]
