"""A table as Markdown and LaTeX."""

from slimclr.reporting.layouts import to_latex, to_markdown
from slimclr.reporting.tables.table import Cell, Column, Note, Table

SMALL = Table(
    key="small",
    title="Small",
    caption="One. Two.",
    columns=[Column("Run", False), Column("Share")],
    rows=[[Cell("a_b", "†"), Cell("−1.0 %")], [Cell("a_b"), Cell("x|y", url="https://example.org")]],
    notes=[Note("", "Empty."), Note("†", "Why.")],
)


def test_markdown():
    assert to_markdown(SMALL).splitlines() == [
        "## Small",
        "",
        "One. Two.",
        "",
        "| Run | Share |",
        "| --- | ---: |",
        "| a_b [†] | −1.0 % |",
        "| a_b | [x\\|y](https://example.org) |",
        "",
        "- Empty.",
        "- [†] Why.",
    ]


def test_latex():
    latex = to_latex(SMALL)
    assert r"a\_b\textsuperscript{$\dagger$} & $-$1.0 \% \\" in latex
    assert latex.count(r"\midrule") == 1, "rows of one run stay together"
    assert latex.count("{") == latex.count("}")
