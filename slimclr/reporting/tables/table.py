"""What a table is: columns, rows of cells, footnotes. How it looks is the business of the layouts."""

from dataclasses import dataclass, field
from typing import NamedTuple

DAGGER = "†"
MINUS = "−"


class Column(NamedTuple):
    """A table's column; numbers are set to the right."""

    title: str
    numeric: bool = True


class Cell(NamedTuple):
    """A table's cell: its text, the mark of a footnote, and where it links to."""

    text: str = ""
    mark: str = ""
    url: str | None = None


class Note(NamedTuple):
    """A footnote; without a mark it speaks of the whole table."""

    mark: str
    text: str


@dataclass(frozen=True)
class Table:
    """A table with its caption of two to four sentences.

    Attributes:
        key: Short name, for links and labels.
        title: Heading.
        caption: What is shown, in which unit, and how to read it.
        columns: One for each cell of a row. The first one's cells repeat within a group of rows.
        rows: The cells.
        notes: Footnotes in order.
    """

    key: str
    title: str
    caption: str
    columns: list[Column]
    rows: list[list[Cell]]
    notes: list[Note] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), f"{self.key}: a cell without a column"


class Footnotes:
    """Collects footnotes and gives the same text the same letter."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, text: str | None) -> str:
        """The letter of a footnote with this text; empty without a text."""
        if not text:
            return ""
        if text not in self.texts:
            self.texts.append(text)
        return _letter(self.texts.index(text))

    def listed(self) -> list[Note]:
        """All footnotes, in the order of their letters."""
        return [Note(_letter(index), text) for index, text in enumerate(self.texts)]


def _letter(index: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    letter = chr(ord("a") + index % 26)
    return letter if index < 26 else _letter(index // 26 - 1) + letter
