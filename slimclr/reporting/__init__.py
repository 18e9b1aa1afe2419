"""Tables and figures from the metrics that the stages left: the report in HTML, Markdown, CSV and LaTeX."""

from slimclr.reporting.page import write_report

__all__ = ["write_report"]
