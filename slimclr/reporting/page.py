"""The report: reads the results, builds tables and figures, writes every form of them."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain, groupby
from pathlib import Path
from types import MappingProxyType

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from slimclr.errors import printable
from slimclr.files import atomic_path, write_text
from slimclr.reporting.figures import (
    Drawing,
    accuracy_drawing,
    gradients_drawing,
    latency_drawing,
    rates_drawing,
    seen_drawing,
    training_drawing,
)
from slimclr.reporting.layouts import markdown, to_csv, to_latex, to_markdown
from slimclr.reporting.logged import read_logged
from slimclr.reporting.pictures import Picture, read_pictures
from slimclr.reporting.references import load_references
from slimclr.reporting.results import Record, Results, read_results
from slimclr.reporting.seen import read_seen
from slimclr.reporting.summary import Reasons, not_comparable, summarise
from slimclr.reporting.tables import report_tables
from slimclr.reporting.tables.cells import minute
from slimclr.reporting.tables.checkpoints import Absent
from slimclr.reporting.tables.table import Cell, Table

_IN_LATEX = ("probe", "gain", "quick", "finetune", "transfer", "transfer_detail", "cost")


@dataclass(frozen=True)
class Heading:
    """What the head of the report says.

    Attributes:
        title: Title of the report.
        facts: Names and values, in order.
    """

    title: str
    facts: list[tuple[str, str]]


def write_report(
    results: Path,
    out: Path,
    *,
    runs: dict[str, list[str]],
    stages: Mapping[str, Sequence[str]],
    references: Sequence[Path],
    config_sha256: str,
    config_name: str,
    unfinished: Mapping[str, Sequence[str]] = MappingProxyType({}),
    absent: Sequence[Absent] = (),
    recipes: Mapping[str, str] = MappingProxyType({}),
    title: str = "SlimCLR: measured and published",
) -> None:
    """Write index.html, tables.md, tables.csv, tables.tex, figures/ (SVG, PDF, PNG and their data) and recipes/.

    The same inputs give the same files, byte for byte, under the same versions of the packages.

    Args:
        results: Folder with pretrain/, probe/ and further stages'.
        out: Folder to write into.
        runs: For each run of the configuration the names of its directories, one for each seed.
        stages: For each stage behind pre-training the names of the directories that have it.
        references: Files of published figures, see `load_references`.
        config_sha256: SHA-256 of the resolved configuration.
        config_name: Name of the configuration, for the head of the page.
        unfinished: Of a report before the end: directories without a result, by stage. They are in no other argument.
        absent: Checkpoints that were not there; their runs are not in `runs`.
        recipes: The resolved recipes of the runs, as YAML.
        title: Title of the page.

    Raises:
        UserError: A metrics file or the references are missing or malformed.
    """
    published, found = load_references(*references), read_results(results, runs, stages)
    gradients, logged = read_logged(results, found.records)
    summary = summarise(found.values, published)
    reasons = not_comparable(found.records)
    tables = report_tables(summary, published, reasons, found.records, logged, list(runs), absent)
    drawings = _drawings(results, runs, found, summary, gradients)
    facts = _facts(found.records, runs, reasons, config_name=config_name, config_sha256=config_sha256)
    if absent:
        facts.append(("Left out", f"{len(absent)} checkpoints that are missing or refused"))
    facts += [(f"Not there yet: {stage}", ", ".join(directories)) for stage, directories in unfinished.items()]
    heading = Heading(title, facts)
    page = render_page(heading, tables, drawings, recipes, read_pictures(results, found.records))
    write_text(out / "tables.md", render_markdown(heading, tables))
    write_text(out / "tables.csv", to_csv(summary))
    write_text(out / "tables.tex", render_latex(tables))
    # Snakemake waits for the folders, also where random backbones alone give nothing to draw.
    for name in ("figures", "recipes"):
        (out / name).mkdir(exist_ok=True)
    for run, text in recipes.items():
        write_text(out / "recipes" / f"{run}.yaml", text)
    for drawing in chain(*drawings.values()):
        for ending, content in drawing.files.items():
            with atomic_path(out / "figures" / f"{drawing.key}.{ending}") as part:
                part.write_bytes(content)
    write_text(out / "index.html", page)  # last: where it is, the others are


def _drawings(
    results: Path, runs: Mapping[str, Sequence[str]], found: Results, summary: pd.DataFrame, gradients: pd.DataFrame
) -> dict[str, list[Drawing]]:
    """The figures of each section; none where there is nothing to draw."""
    seen = read_seen(results, found.records)
    drawn = {
        "accuracy": [accuracy_drawing(summary)],
        "latency": [latency_drawing(summary)],
        "rates": [rates_drawing(record) for record in found.records],
        "training": [training_drawing(found.curves, run) for run in runs],
        "validation": [seen_drawing(seen, record.metrics.run, record.stage) for record in found.records],
        "gradients": [gradients_drawing(gradients, directory) for directory in chain(*runs.values())],
    }
    return {key: [drawing for drawing in made if drawing] for key, made in drawn.items()}


def render_page(
    heading: Heading,
    tables: list[Table],
    drawings: Mapping[str, list[Drawing]],
    recipes: Collection[str] = (),
    detections: Sequence[Picture] = (),
) -> str:
    """The HTML page: one file, nothing loaded from elsewhere.

    Args:
        heading: What its head says.
        tables: In order.
        drawings: Of each section.
        recipes: Runs whose resolved recipe lies in recipes/.
        detections: What detectors see.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["grouped"] = _grouped
    environment.filters["breakable"] = _breakable
    source = files("slimclr.reporting").joinpath("report.html").read_text(encoding="utf-8")
    page = environment.from_string(source).render(
        heading=heading,
        tables={table.key: table for table in tables},
        drawings=defaultdict(list, drawings),
        recipes=list(recipes),
        detections=detections,
    )
    return page + "\n"


def render_markdown(heading: Heading, tables: list[Table]) -> str:
    """All tables as one Markdown document."""
    facts = "\n".join(f"- {name}: {markdown(value)}" for name, value in heading.facts)
    return "\n".join([f"# {heading.title}\n\n{facts}\n", *(to_markdown(table) for table in tables)])


def render_latex(tables: list[Table]) -> str:
    """The tables of results as LaTeX; reasons, sources and provenance are too wide for a printed column."""
    chosen = [table for table in tables if table.key in _IN_LATEX]
    return "\n".join(["% Needs \\usepackage{booktabs}.", *(to_latex(table) for table in chosen)])


def _facts(
    records: list[Record],
    runs: dict[str, list[str]],
    reasons: Reasons,
    *,
    config_name: str,
    config_sha256: str,
) -> list[tuple[str, str]]:
    """The lines at the head; times come from the results, so that a report written twice is the same."""
    commits = sorted({commit for record in records if (commit := record.metrics.provenance.git_commit)})
    starts = [record.metrics.provenance.started for record in records if record.metrics.provenance.started]
    facts = [("Configuration", f"{printable(config_name)} (SHA-256 {config_sha256[:12]})"), ("Runs", str(len(runs)))]
    if reasons:
        facts.append(("Not comparable with the paper", f"{len(reasons)} of {len(runs)} runs"))
    if commits:
        facts.append(("Code", ", ".join(commits)))
    if starts:
        facts.append(("Newest result started", minute(max(starts)) + " UTC"))
    return facts


def _grouped(rows: list[list[Cell]]) -> list[list[list[Cell]]]:
    """Consecutive rows with the same first cell, together."""
    return [list(group) for _, group in groupby(rows, key=lambda row: row[0])]


def _breakable(name: str) -> Markup:
    """A run's name that a narrow screen may break behind an underscore."""
    return Markup("_<wbr>").join(escape(part) for part in name.split("_"))
