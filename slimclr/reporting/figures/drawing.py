"""What every figure has: the style, the files, its numbers, and words for those who cannot see it."""

import io
import re
from dataclasses import dataclass
from typing import Any

import matplotlib
import pandas as pd
from markupsafe import escape
from matplotlib.figure import Figure

# Colours of medium lightness: they must stand on a white page and on a dark one.
COLOURS = ("#3f74d8", "#cc6a1d", "#1f9470", "#b34a9e", "#8a7a1c", "#7a63d1", "#c9485b", "#5d8a99")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p")
# Stand-ins that `Drawing.embedded` turns into the page's own colours.
INK, _RULE, _PAPER = "#1f2934", "#c8d0d9", "#ffffff"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9.5,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.5,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "axes.facecolor": "none",
    "figure.facecolor": _PAPER,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


@dataclass(frozen=True)
class Drawing:
    """A finished figure.

    Attributes:
        key: File name without its ending.
        title: What it shows.
        svg: The file's text.
        png: The file's bytes.
        pdf: The file's bytes.
        data: What is drawn, as CSV.
        words: Where each line begins and ends, for those who cannot see it.
    """

    key: str
    title: str
    svg: str
    png: bytes
    pdf: bytes
    data: str
    words: str

    @property
    def embedded(self) -> str:
        """The SVG as an element of an HTML page: of any size, in the page's colours, without ids that could clash."""
        body = self.svg[self.svg.index("<svg") :]
        body = re.sub(r'<g id="[^"]*"', "<g", body)
        body = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", body, count=1)
        body = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", body, count=1)
        body = body.replace(INK, "currentColor").replace(_RULE, "var(--rule)").replace(_PAPER, "none")
        return body.replace("<svg", f'<svg role="img" aria-label="{escape(self.title)}"', 1)

    @property
    def files(self) -> dict[str, bytes]:
        """Content of its files by their endings."""
        return {"svg": self.svg.encode(), "pdf": self.pdf, "png": self.png, "csv": self.data.encode()}


def finish(figure: Figure, key: str, title: str, data: pd.DataFrame) -> Drawing:
    """Write a figure in every form.

    Args:
        figure: What was drawn.
        key: File name without its ending.
        title: What it shows.
        data: What was drawn, a row for each point: columns that name the line, and last its x and y.
    """
    # A date or a random id in the file would make equal inputs give different reports.
    svg, png, pdf = io.StringIO(), io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": key}):
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
    # Letters as text that can be searched for, and no creator with a version of this machine's.
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        figure.savefig(pdf, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    table = data.to_csv(index=False, float_format="%.10g", lineterminator="\n")
    return Drawing(key, title, svg.getvalue(), png.getvalue(), pdf.getvalue(), table, _words(data))


def _words(data: pd.DataFrame) -> str:
    """Each line by its name with its first and last point."""
    *names, x, y = data.columns
    said = []
    for key, line in data.groupby(names, sort=False):
        points = [f"{row[y]:.4g} at {x} {row[x]:.4g}" for row in (line.iloc[0], line.iloc[-1])]
        said.append(f"{', '.join(map(str, key))}: {y} {' to '.join(dict.fromkeys(points))}")
    return "; ".join(said) + "."
