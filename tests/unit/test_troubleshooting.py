"""docs/troubleshooting.md quotes what is printed: our own lines are looked up in the source."""

import errno
import os
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/troubleshooting.md"
OTHERS = re.compile(
    r"LockException|Error: Directory|Unable to test|sbatch: error|Job … completed|The NVIDIA driver|torch\."
    r"|slurmstepd: |=====|RuntimeError|OSError|ModuleNotFoundError"
)


def quoted():
    blocks = re.findall(r"^```\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def source():
    """All of the source, with adjacent string literals joined."""
    files = [*(ROOT / "slimclr").rglob("*.py"), *(ROOT / "workflow").rglob("*.smk"), ROOT / "envs/install.sh"]
    text = "\n".join(file.read_text(encoding="utf-8") for file in sorted(files))
    return re.sub(r'"\s*\n\s*f?"', "", text)


def test_quoted_lines_of_ours_are_in_the_source():
    ours = [line for line in quoted() if not OTHERS.match(line)]
    assert len(ours) >= 14
    text = source()
    system = re.compile("|".join(f"{os.strerror(code)}; " for code in (errno.ENOSPC, errno.EDQUOT, errno.EACCES)))
    for line in ours:
        pieces = [piece for piece in system.sub("…", line).split("…") if len(piece.strip(" :();,")) > 3]
        assert pieces
        assert [piece for piece in pieces if piece not in text] == [], line


def test_the_page_is_linked_where_people_look():
    for page in ("README.md", "docs/slurm.md"):
        assert "troubleshooting.md" in (ROOT / page).read_text(encoding="utf-8")
