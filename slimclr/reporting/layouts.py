"""A table as Markdown and as LaTeX, the summary as CSV; the page's template lays tables out as HTML."""

import re

import pandas as pd

from slimclr.reporting.summary import CSV_COLUMNS
from slimclr.reporting.tables.table import DAGGER, MINUS, Cell, Table

_TEX = {
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    MINUS: "$-$",
    "×": r"$\times$",
    DAGGER: r"$\dagger$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    # After \\ and \midrule a bracket would begin an argument.
    "[": "{[}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
# What Markdown and the HTML in it give a meaning; an underscore within a word has none.
_MARKDOWN = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")
_MARKUP = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# With these a spreadsheet takes a text for a formula.
_FORMULA = tuple("=+-@")


def to_markdown(table: Table) -> str:
    """The table as GitHub-flavoured Markdown, with heading, caption and footnotes."""

    def text(cell: Cell) -> str:
        shown = markdown(cell.text)
        if cell.url:
            shown = f"[{shown}]({cell.url.replace('(', '%28').replace(')', '%29')})"
        return shown + (f" [{cell.mark}]" if cell.mark else "")

    lines = [f"## {table.title}", "", table.caption, ""]
    lines.append("| " + " | ".join(column.title for column in table.columns) + " |")
    lines.append("| " + " | ".join("---:" if column.numeric else "---" for column in table.columns) + " |")
    lines += ["| " + " | ".join(text(cell) for cell in row) + " |" for row in table.rows]
    if table.notes:
        lines += [
            "",
            *(f"- [{note.mark}] {markdown(note.text)}" if note.mark else f"- {note.text}" for note in table.notes),
        ]
    return "\n".join(lines) + "\n"


def markdown(text: str) -> str:
    """Text that Markdown shows as it is."""
    return _MARKDOWN.sub(r"\\\g<0>", "".join(_MARKUP.get(character, character) for character in text))


def to_latex(table: Table) -> str:
    """The table as a LaTeX float that needs the package booktabs."""
    layout = "".join("r" if column.numeric else "l" for column in table.columns)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_tex(table.caption)}}}",
        rf"\label{{tab:{table.key}}}",
        rf"\begin{{tabular}}{{{layout}}}",
        r"\toprule",
        " & ".join(_tex(column.title) for column in table.columns) + r" \\",
    ]
    previous = None
    for row in table.rows:
        same = previous is not None and row[0].text == previous
        if not same:
            lines.append(r"\midrule")
        first = "" if same else _tex(row[0].text) + _tex_mark(row[0].mark)
        others = [_tex(cell.text) + _tex_mark(cell.mark) for cell in row[1:]]
        lines.append(" & ".join([first, *others]) + r" \\")
        previous = row[0].text
    lines += [r"\bottomrule", r"\end{tabular}"]
    if table.notes:
        notes = [_tex_mark(note.mark) + _tex(note.text) for note in table.notes]
        lines.append(r"\par\smallskip\footnotesize " + r"\\ ".join(notes))
    lines.append(r"\end{table}")
    return "\n".join(lines) + "\n"


def to_csv(summary: pd.DataFrame) -> str:
    """All figures in long form, with `CSV_COLUMNS`; an absent figure is an empty field.

    A text that a spreadsheet would take for a formula has a `'` in front.
    """
    shown = summary[CSV_COLUMNS].copy()
    for column in ("run", "metric", "source"):
        shown[column] = shown[column].map(_cell)
    return shown.to_csv(index=False, float_format="%.10g", lineterminator="\n")


def _cell(text: str) -> str:
    """Text of a CSV's field that a spreadsheet calculates nothing from."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)


def _tex_mark(mark: str) -> str:
    return rf"\textsuperscript{{{_tex(mark)}}}" if mark else ""
