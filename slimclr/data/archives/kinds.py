"""File types by magic number, for messages about a file that is not a tar."""

import shlex
from pathlib import Path

# How each begins, what it is, and the program that unpacks it.
COMPRESSED = {
    "gzip-compressed": (b"\x1f\x8b", "gunzip"),
    "bzip2-compressed": (b"BZh", "bunzip2"),
    "xz-compressed": (b"\xfd7zXZ\0", "unxz"),
}
_OTHERS = {
    "zstd-compressed": (b"\x28\xb5\x2f\xfd",),
    "a zip archive": (b"PK\3\4", b"PK\5\6"),
    "a 7z archive": (b"7z\xbc\xaf\x27\x1c",),
    "a rar archive": (b"Rar!\x1a\x07",),
    "a JPEG image": (b"\xff\xd8\xff",),
    "a PNG image": (b"\x89PNG",),
    "an HDF5 file": (b"\x89HDF",),
    "a PDF": (b"%PDF",),
    "a torrent file": (b"d8:announce", b"d13:announce-list"),
    "a Git LFS pointer": (b"version https://git-lfs",),
}
_HTML = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<script")
_WEB_PAGE = "a web page"


def kind_of(head: bytes) -> str | None:
    """What a file that begins like this is; None for a tar or anything unknown."""
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_HTML):
        return _WEB_PAGE
    starts = {name: (magic,) for name, (magic, _) in COMPRESSED.items()} | _OTHERS
    return next((name for name, magics in starts.items() if head.startswith(magics)), None)


def other_kind(head: bytes, name: str) -> str | None:
    """What a file is in place of a tar, and how to mend that; None when it looks like a tar, or like nothing known.

    Args:
        head: Its first bytes, 512 or so.
        name: Its name, for the command that unpacks it.
    """
    kind = kind_of(head)
    if kind in COMPRESSED:
        command = f"{COMPRESSED[kind][1]} {shlex.quote(name)}"
        return f"{kind}, so images cannot be read at their place in it; run '{command}' first, and give what that makes"
    if kind == "zstd-compressed":
        return f"{kind}; run 'unzstd {shlex.quote(name)}' first, and give what that makes"
    if kind == _WEB_PAGE:
        return "a web page, not a tar archive: perhaps a log-in was asked for; download the archive again, logged in"
    if kind in ("a zip archive", "a 7z archive", "a rar archive"):
        return f"{kind}, not a tar; unpack it and give the folder"
    if kind in ("a torrent file", "a Git LFS pointer"):
        return f"{kind}, not what it stands for; download the archive itself"
    return f"{kind}, not a tar archive; give the archive itself" if kind else None


def is_zip(path: Path) -> bool:
    """Whether a file begins as a zip does, be it whole or not."""
    try:
        with open(path, "rb") as file:
            return file.read(4) in (b"PK\3\4", b"PK\5\6")
    except OSError:
        return False
