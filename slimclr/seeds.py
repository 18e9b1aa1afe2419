"""Seeds that depend on names and numbers alone, so that every process and every resumed run draws the same."""

import hashlib


def derived_seed(*parts: int | str) -> int:
    """A seed of 63 bits made from integers or words, the same on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
