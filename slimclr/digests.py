"""Whether a downloaded file is the one that was meant: its content's hash, and the beginning of one in its name."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

_CHUNK = 1 << 20
_HASHES = {"SHA-256": "sha256", "MD5": "md5", "SHA-1": "sha1"}


def hash_in_name(name: str) -> str | None:
    """The hexadecimal tail of a checkpoint's file name, in small letters; None where it has none."""
    match = re.search(r"[-_]([0-9a-fA-F]{8,})\.pth(\.tar)?$", name)
    return match[1].lower() if match else None


def digests(file: Path) -> dict[str, str]:
    """Hexadecimal digests by the name of the hash, SHA-256 first; the file is read once."""
    hashes = {name: hashlib.new(kind, usedforsecurity=False) for name, kind in _HASHES.items()}
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            for digest in hashes.values():
                digest.update(chunk)
    return {name: digest.hexdigest() for name, digest in hashes.items()}


def compare(name: str, found: Mapping[str, str], *, expected: str | None = None) -> tuple[bool, str]:
    """Compare a content's digests with what is expected of it.

    Args:
        name: The file's name; which hash its tail begins is presumed to be SHA-256, but MD5 and SHA-1 do.
        found: What `digests` gave.
        expected: SHA-256 or its beginning; None: what the name says.

    Returns:
        Whether it fits, and what was found.
    """
    if expected is not None:
        begins = found["SHA-256"].startswith(expected)
        words = f"begins with {expected}" if begins else f"is {found['SHA-256']}, but {expected} is expected"
        return begins, f"its SHA-256 {words}"
    tail = hash_in_name(name)
    if tail is None:
        return True, "nothing to check: the file's name ends in no hash"
    for kind, digest in found.items():
        if digest.startswith(tail):
            return True, f"{tail} in the file's name is the beginning of its {kind}"
    listed = ", ".join(f"{kind} {digest[: len(tail)]}" for kind, digest in found.items())
    return False, f"{tail} in the file's name fits none of its hashes ({listed})"
