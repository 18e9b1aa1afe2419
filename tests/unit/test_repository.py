"""What the repository says of itself fits together."""

from pathlib import Path

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
