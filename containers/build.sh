#!/usr/bin/env bash
# containers/build.sh images|sif|lock [NAME...]: build the images of containers/images.yaml (all of them unless named), turn
# them into SIF files, or resolve tags to digests. `make images`, `make sif` and `make images-lock` call it.
#
#   BASE=PATH              root file system (a folder or a tar) to build from, instead of the registry's base
#   SLIMCLR_ENGINE         docker, podman or buildah; else the first that works
#   SLIMCLR_BUILD_OPTIONS  more options for the engine's build
set -euo pipefail
cd "$(dirname "$0")/.."
yaml=containers/images.yaml

stop() {
  echo "containers/build.sh: $*" >&2
  exit 2
}

# field NAME KEY: a value out of images.yaml; nothing for null
field() {
  sed -n "s/^$1: {\(.*\)}\$/\1/p" "$yaml" | tr ',' '\n' | sed -n "s/^ *$2: *//p" | sed 's/^null$//'
}

engine() {
  local name
  for name in ${SLIMCLR_ENGINE:-docker podman buildah}; do
    command -v "$name" >/dev/null || continue
    # docker is often there without its daemon
    "$name" info >/dev/null 2>&1 && echo "$name" && return
  done
  return 1
}

# import_base PATH: the user's root file system becomes an image
import_base() {
  local container
  [ -e "$BASE" ] || stop "BASE=$BASE does not exist; give a root file system, as a folder or a tar"
  case $engine in
  buildah)
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$BASE" / >/dev/null
    buildah commit --quiet --rm --timestamp 0 "$container" "$base" >/dev/null
    ;;
  *)
    if [ -d "$BASE" ]; then tar -C "$BASE" -c .; else cat "$BASE"; fi | "$engine" import --quiet - "$base" >/dev/null
    ;;
  esac
}

# What an image may see: files of the work tree that git knows or would take.
stage_context() {
  mkdir -p "$context"
  git ls-files --cached --others --exclude-standard -z -- pyproject.toml README.md containers envs config slimclr |
    while IFS= read -r -d '' file; do [ -e "$file" ] && printf '%s\0' "$file"; done |
    tar --null --files-from - -c | tar -C "$context" -x
  # the same files give the same layers, whenever they were checked out
  find "$context" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
}

build() {
  local name=$1 options
  options=(--build-arg "BASE=$base" --build-arg "BASE_DIGEST=$base_digest" --build-arg "VERSION=$version"
    --build-arg "REVISION=$revision" --build-arg "CREATED=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)"
    --file "$context/containers/$name.Dockerfile" --tag "$prefix/$name:$version")
  [ "$name" = detection ] && options+=(--build-arg "CUDA=$cuda")
  case $engine in
  docker) options+=(--build-arg "SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH") ;;
  *)
    options+=(--layers --timestamp "$SOURCE_DATE_EPOCH" --network host)
    # a site's own authority, which package registries behind a proxy need
    local authority=/etc/ssl/certs/ca-certificates.crt
    [ -e "$authority" ] && options+=(--volume "$authority:$authority:ro")
    ;;
  esac
  # shellcheck disable=SC2206  # several words are meant
  options+=(${SLIMCLR_BUILD_OPTIONS:-})
  echo "containers/build.sh: $prefix/$name:$version with $engine from $base" >&2
  "$engine" build "${options[@]}" "$context"
}

image_id() {
  case $engine in
  buildah) buildah inspect --type image --format '{{.FromImageID}}' "$1" ;;
  *) "$engine" image inspect --format '{{.Id}}' "$1" ;;
  esac
}

to_sif() {
  local name=$1 image=$prefix/$1:$version sif archive id
  sif=$(field "$name" sif)
  id=$(image_id "$image")
  if [ -e "$sif" ] && [ "$(cat "$sif.image" 2>/dev/null)" = "$id" ]; then
    echo "containers/build.sh: $sif is up to date" >&2
    return
  fi
  mkdir -p "$(dirname "$sif")"
  rm -f "$sif.image"
  archive=$work/$name.tar
  case $engine in
  docker) docker save --output "$archive" "$image" && archive=docker-archive:$archive ;;
  podman) podman save --quiet --format oci-archive --output "$archive" "$image" && archive=oci-archive:$archive ;;
  buildah) buildah push --quiet --disable-compression "$image" "oci-archive:$archive:$name" && archive=oci-archive:$archive ;;
  esac
  APPTAINER_TMPDIR=$work apptainer --silent build --force \
    --mksquashfs-args "-comp zstd -Xcompression-level 1" "$sif.part" "$archive"
  rm -f "$work/$name.tar"
  mv "$sif.part" "$sif"
  echo "$id" >"$sif.image"
  echo "containers/build.sh: $sif, $(du -h "$sif" | cut -f1)" >&2
}

# digest REFERENCE:TAG, or failure
digest() {
  if command -v skopeo >/dev/null; then
    skopeo inspect --format '{{.Digest}}' "docker://$1"
  elif docker info >/dev/null 2>&1; then
    docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$1"
  elif command -v podman >/dev/null; then
    podman pull --quiet "$1" >/dev/null && podman image inspect --format '{{.Digest}}' "$1"
  else
    return 1
  fi 2>/dev/null
}

# lock NAME...: compares the digests with what the registries have now, and writes those that the tags lead to
lock() {
  local name reference locked found unresolved=()
  for name in "$@"; do
    reference=$(field "$name" reference)
    [ -n "$reference" ] || continue
    locked=$(field "$name" digest)
    if ! found=$(digest "$reference:$(field "$name" tag)") || ! [[ $found =~ ^sha256:[0-9a-f]{64}$ ]]; then
      unresolved+=("$reference:$(field "$name" tag)")
    elif [ "$found" = "$locked" ]; then
      echo "$name: $reference@$found, as locked"
    else
      sed -i "/^$name: {/s/digest: [^,}]*/digest: $found/" "$yaml"
      sed -i "s|^\(ARG [A-Z]*=$reference\)[:@].*|\1@$found|" containers/*.Dockerfile
      echo "$name: $reference@$found, written$([ -z "$locked" ] || was_locked "$reference@$locked")"
    fi
  done
  [ ${#unresolved[@]} = 0 ] || echo "not resolved, their digests stay as they are (is skopeo, docker or podman here, and" \
    "the registry reachable?): ${unresolved[*]}"
}

# was_locked REFERENCE@DIGEST: what has become of a digest that the tag no longer leads to
was_locked() {
  echo -n " instead of ${1#*@}, which $(digest "$1" >/dev/null && echo "is there, too" || echo "the registry does not have")"
}

command=${1:?usage: containers/build.sh images|sif|lock [NAME...]}
shift
if [ "$command" = lock ]; then
  # shellcheck disable=SC2046  # names have no blanks
  [ $# -gt 0 ] || set -- $(sed -n 's/^\([a-z]*\): {.*/\1/p' "$yaml")
  lock "$@"
  exit
fi
[ $# -gt 0 ] || set -- train detection recordio
for name in "$@"; do
  [ -e "containers/$name.Dockerfile" ] || stop "no such image: $name (there is no containers/$name.Dockerfile)"
done
case $command in
images) ;;
sif) command -v apptainer >/dev/null || stop "apptainer is not on PATH; it turns images into SIF files" ;;
*) stop "no such command: $command (images, sif or lock)" ;;
esac
engine=$(engine) || stop "none of docker, podman and buildah works here; install one of them (Debian: apt-get install buildah)"

prefix=localhost/slimclr
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' slimclr/__init__.py)
revision=$(git rev-parse HEAD)$([ -z "$(git status --porcelain)" ] || echo +)
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
work=$(mktemp -d "${TMPDIR:-/tmp}/slimclr-images.XXXXXX")
trap 'rm -rf "$work"' EXIT
context=$work/context
stage_context

if [ -n "${BASE:-}" ]; then
  base=$prefix/base:local base_digest=
  # without a registry there is no CUDA toolkit either
  cuda=$base
  import_base
else
  base_digest=$(field base digest)
  base=$(field base reference)$([ -n "$base_digest" ] && echo "@$base_digest" || echo ":$(field base tag)")
  cuda_digest=$(field cuda digest)
  cuda=$(field cuda reference)$([ -n "$cuda_digest" ] && echo "@$cuda_digest" || echo ":$(field cuda tag)")
fi
for name in "$@"; do
  build "$name"
  [ "$command" = images ] || to_sif "$name"
done
