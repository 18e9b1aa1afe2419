"""What the repository says of itself fits together."""

import re
from pathlib import Path

import pytest
import yaml

import slimclr

ROOT = Path(__file__).parents[2]


def test_citation_and_changelog_know_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == slimclr.__version__
    assert f"\n## [{slimclr.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_hooks_are_the_commands_of_make_lint():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    makefile = (ROOT / "Makefile").read_text()
    lint = makefile[makefile.index("\nlint:") :].split("\n\n")[0]
    for hook in hooks:
        # What checks in `make lint` may mend in a hook.
        command, *rest = hook["entry"].split()
        wanted = " ".join([command, *(word for word in rest if word not in ("--fix", "--force-exclude"))])
        assert wanted in lint, hook["id"]


PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks/README.md"]
# What the examples of CONTRIBUTING.md add.
EXAMPLES = re.compile(r"/(test_)?(byol|speed|zip)\.")


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_files_that_the_documents_name_exist(page):
    named = re.findall(r"`([\w./-]+/[\w.-]*\.(?:py|smk|md|sh|svg|html))`", page.read_text())
    roots = (ROOT, ROOT / "slimclr", page.parent)
    lost = [name for name in named if not EXAMPLES.search(name) and not any((root / name).exists() for root in roots)]
    assert lost == []


def test_modules_and_names_that_docstrings_refer_to_exist():
    lost = []
    for path in (ROOT / "slimclr").rglob("*.py"):
        for dotted in re.findall(r"`(slimclr(?:\.\w+)+)`", path.read_text()):
            # Read, not imported: some modules need packages that only one environment has.
            place = ROOT.joinpath(*dotted.split("."))
            file = place.parent.with_suffix(".py")
            source = (file if file.is_file() else place.parent / "__init__.py").read_text()
            if (
                not place.is_dir()
                and not place.with_suffix(".py").is_file()
                and not re.search(rf"\b{place.name}\b", source)
            ):
                lost.append(f"{path.name}: {dotted}")
    assert lost == []
