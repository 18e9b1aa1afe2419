"""Hostile values in every field of the config and the recipes: texts, and numbers at the edges.

A value is refused in one printable line, or it is harmless: the shell gets it as one word, and a stage trains with it,
stops where a number is none any more, or says in one line that there is no memory.
"""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from slimclr.cli import main
from slimclr.config import Detection, FineTune, Pretrain, Probe, Quick, dump, load_config, load_recipe
from tests.helpers.hostile import MMDET, RECIPES, Tally, World
from tests.hostile.attack import Attack, limit_memory

ROOT = Path(__file__).parents[2]
TEXTS = {
    "quotes": 'it\'s "x"',
    "substitution": "$(touch pwned)",
    "backquotes": "`touch pwned`",
    "variable": "${HOME} $HOME",
    "wildcard": "{wildcards.run}",
    "format": "{0.__class__} %s%n",
    "new line": "a\ntouch pwned\n",
    "command": "a; touch pwned & touch pwned | touch pwned",
    "escape": "\x1b]0;x\x07\x1b[31m",
    "nul": "a\0b",
    "right to left": "a\u202egpj.exe",
    "markup": "<script>alert(1)</script>",
    "link": "[x](javascript:alert(1))",
    "LaTeX": "\\input{/etc/passwd}$x^2$",
    "formula": "=cmd|' /C calc'!A0",
    "option": "--help",
    "outside": "../../../etc/passwd",
    "home": "~root/*",
    "long": "x" * 5000,
    "empty": "",
}
NUMBERS = ["0", "-1", "1", "0.5", "1e-300", "1e30", "1e400", ".nan", ".inf", "-.inf"]
NUMBERS += map(str, (2**32, 2**63, -(2**63) - 1))
ODD = ["true", "null", "[]", "{}", "[[1]]", "2026-11-28", "!!python/object/apply:os.system ['touch pwned']", "*none"]
METHODS: dict[str, dict[str, Any]] = {
    "mocov2": {"name": "mocov2"},
    "mocov3": {"name": "mocov3"},
    "simclr": {"name": "simclr"},
}
FULL = {
    "bn_batch": 32,
    "epochs": 4,
    "batch": 32,
    "slow_start_epoch": 1,
    "optimizer": {"lr": 0.1},
    "distillation": {},
    "knn": {},
    "validation": {},
    "online": {},
}
OPTIMIZER = {"lr": 0.1}
SECTIONS: dict[str, Any] = {
    "pretrain": Pretrain,
    "probe": Probe,
    "quick": Quick,
    "finetune": FineTune,
    "transfer": Detection,
}
HERE = "@here@"


def places(documents: dict[str, dict[str, Any]]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Every key of the documents once: the first of them that has it, and where."""
    seen = set()
    for name, document in documents.items():
        for path in leaves(document):
            if path not in seen:
                seen.add(path)
                yield name, path


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every value of a document that holds no others."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    below = [leaf for key, part in inner for leaf in leaves(part, (*path, key))]
    yield from below or [path]


def documents() -> dict[str, dict[str, Any]]:
    """A config and recipes that together have every key."""
    whole = {"config": dump(load_config({"runs": ["x"], "miniature": {}, "imagenet": {"expect": "subset"}}))}
    rest = {
        "seeds": [0],
        "probe": {"epochs": 2, "optimizer": OPTIMIZER},
        "quick": {},
        "finetune": {"epochs": 2, "optimizer": OPTIMIZER, "distillation": {}},
    }
    for name, method in METHODS.items():
        views = {"views": "mocov3" if name == "mocov3" else "simclr" if name == "simclr" else "mocov2"}
        whole[name] = dump(load_recipe({"pretrain": FULL | views | {"method": method}, **rest}))
    checkpoint = {"file": "x-0123456789abcdef.pth.tar", "url": "https://example.org"}
    whole["checkpoint"] = dump(load_recipe({"checkpoint": checkpoint, **rest}))
    return whole


def with_value(document: dict[str, Any], path: tuple[Any, ...], literal: str) -> str:
    """The document as YAML, with this piece of YAML at one place."""
    changed: Any = json.loads(json.dumps(document))
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = HERE
    return yaml.safe_dump(changed, width=10**6).replace(f"'{HERE}'", literal).replace(HERE, literal)


def run(tally: Tally, folder: Path, *, every: int = 1) -> None:
    """Config and recipes as a whole, and what is taken of it in the jobs' shell."""
    in_shell(tally, folder / "shell", check(tally, folder, every=every))


def check(tally: Tally, folder: Path, *, every: int = 1) -> dict[tuple[Any, ...], list[str]]:
    """`slimclr check` with each value in each field, or in every `every`-th of them.

    Returns:
        Place of a text in the config -> names of the texts that were taken there.
    """
    taken: dict[tuple[Any, ...], list[str]] = {}
    values = {name: json.dumps(text) for name, text in TEXTS.items()} | {text: text for text in [*NUMBERS, *ODD]}
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    os.chdir(folder)  # where `touch pwned` would do it
    known, number = documents(), 0
    for name, path in places(known):
        for value, literal in values.items():
            number += 1
            if number % every:
                continue
            config = {"runs": ["x"], "recipes": str(folder / "runs")}
            written = with_value(known[name], path, literal)
            (folder / "config.yaml").write_text(written if name == "config" else yaml.safe_dump(config))
            if name != "config":
                (folder / "runs/x.yaml").write_text(written)
            code, told = _in_process(["check", "--config", str(folder / "config.yaml")])
            fault = _fault(code, told, folder)
            kind = "config and recipes: " + ("texts" if value in TEXTS else "numbers at the edges, YAML")
            tally.add(kind, f"{name} {'.'.join(map(str, path))}: {value}", not fault, f"{fault}: {told}")
            # Other recipes than those that are there are refused after the value itself.
            if value in TEXTS and name == "config" and (code == 0 or "has no recipe" in told):
                taken.setdefault(path, []).append(value)
    return taken


def _in_process(command: list[str]) -> tuple[int, str]:
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            code = main(command)
        except Exception as error:
            return 1, f"Traceback: {error!r}"
    return code, said.getvalue()


def _fault(code: int, told: str, folder: Path) -> str:
    if list(folder.rglob("*pwned*")):
        return "the value was run"
    if not told.replace("\n", "").isprintable():
        return "unprintable"
    lines = told.splitlines()
    if code not in (0, 2) or "Traceback" in told:
        return f"code {code}"
    if code == 2 and not all(line.startswith("slimclr check: error: ") for line in lines):
        return "a message of several lines"
    return "a message without end" if len(told) > 20_000 else ""


def in_shell(tally: Tally, folder: Path, taken: dict[tuple[Any, ...], list[str]]) -> None:
    """The jobs' commands, run in bash with a stand-in for `slimclr`, have each text in one word and run none."""
    plain = _words(folder / "plain", taken, "plain", "a_b")
    for name, text in TEXTS.items():
        places = {path: names for path, names in taken.items() if name in names}
        if not places:
            continue
        told, words = _dry_run(folder / name.replace(" ", "_"), places, text)
        wanted = _words(folder / "plain", places, "plain", "a_b") if places.keys() != taken.keys() else plain
        refused = "Traceback" not in told and any("Error" in line for line in told.splitlines())
        fault = "" if (len(words) == len(wanted) and words) or (refused and not words) else "other words"
        if list(folder.rglob("pwned*")):
            fault = "the text was run"
        case = f"{name} in {', '.join('.'.join(map(str, path)) for path in places)}"
        tally.add("texts of the config in the jobs' shell", case, not fault, f"{fault}: {told}")


def _words(folder: Path, places: dict[tuple[Any, ...], list[str]], name: str, text: str) -> list[list[str]]:
    told, words = _dry_run(folder, places, text)
    assert words, told
    return words


def _dry_run(folder: Path, places: dict[tuple[Any, ...], list[str]], text: str) -> tuple[str, list[list[str]]]:
    """What Snakemake says of a config with a text at these places, and the words of its jobs' commands."""
    folder.mkdir(parents=True, exist_ok=True)
    config = yaml.safe_load((ROOT / "config/demo.yaml").read_text())
    for path in places:
        if path[0] in ("recipes", "references", "runs", "cifar10"):
            continue
        inner = config
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = f"{text}.{path[-1]}"  # two archives cannot be one
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    command = [
        Path(sys.executable).parent / "snakemake",
        "all",
        "--profile",
        ROOT / "local",
        "-n",
        "-p",
        "--cores",
        "2",
    ]
    command += ["--snakefile", ROOT / "Snakefile", "--configfile", "config.yaml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    told = done.stdout + done.stderr
    found = re.findall(r"^Shell command: (.*?)(?=\n\n\[|\nJob stats:|\Z)", told, re.DOTALL | re.MULTILINE)
    stand_in = "".join(f"{name}_env() {{ printf '%s\\0' \"$@\"; }}; " for name in ("train", "detection", "recordio"))
    words = []
    for one in found:
        script = f"set -euo pipefail; keep_log() {{ cat; }}; {stand_in}{one}"
        ran = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True)
        words.append(ran.stdout.decode(errors="replace").split("\0"))
    return told, words


def trained(world: World) -> Iterator[Attack]:
    """Stages with each number of their recipe at the edges that it may have."""
    for stage, recipe in RECIPES.items():
        if (stage == "transfer") != MMDET:
            continue
        model = SECTIONS[stage]
        whole = dump(model.model_validate(recipe))
        for path in leaves(whole):
            value: Any = whole
            for key in path:
                value = value[key]
            if isinstance(value, bool) or not isinstance(value, int | float) or path == ("workers",):
                continue
            for edge in (0, 1, 1e-300, 1e-12, 1.0 - 1e-12, 10**9, 1e12):
                changed: Any = json.loads(json.dumps(whole))
                inner = changed
                for key in path[:-1]:
                    inner = inner[key]
                inner[path[-1]] = edge
                try:
                    model.model_validate(changed)
                except ValidationError:  # `check` is told so
                    continue
                out = world.folder / f"edges/{stage}"
                command = world.command(stage, out, **changed)
                case = f"{'.'.join(map(str, path))}: {edge}"
                kind = f"{stage} with numbers at the edges"
                yield Attack(kind, case, command, out, before=partial(limit_memory, 4096), seconds=30)
