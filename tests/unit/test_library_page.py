"""docs/library.md: every block of Python runs, in order."""

import os
import re
import subprocess
import sys
from pathlib import Path

import slimclr
from tests.helpers.small_network import write_run

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/library.md"


def test_the_pages_blocks_run(tmp_path):
    write_run(tmp_path / "results")
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 6
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_the_page_names_all_that_is_public():
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"`slimclr.{name}`" in text for name in slimclr.__all__)
    assert sorted(dir(slimclr)) == sorted(slimclr.__all__)
    for name in slimclr.__all__:
        getattr(slimclr, name)
