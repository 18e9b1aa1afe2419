"""Picture of a command's terminal output: `python docs/terminal.py OUT.svg COMMAND...`; docs/ holds no typed output."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text


def main() -> None:
    """Run the command with colours and save what it prints, wrapped at 140 columns."""
    out, *command = sys.argv[1:]
    environment = os.environ | {"FORCE_COLOR": "1", "COLUMNS": "140"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    console = Console(record=True, width=140, file=io.StringIO())
    console.print(Text.from_ansi(done.stdout))
    picture = console.export_svg(title=" ".join([os.path.basename(command[0]), *command[1:]]))
    # The viewer's own fonts: nothing is fetched from elsewhere to show a picture.
    Path(out).write_text(re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    main()
