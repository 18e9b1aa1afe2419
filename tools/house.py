"""Checks how slimclr/ is built: imports point down the layers, no circle, no long file, no long function.

`python -m tools.house` names every offence with file and line and exits 1 where there is one. It reads the code without
importing it, so it needs nothing but Python. `python -m tools.import_graph` draws the same layers.
"""

import ast
import sys
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

# From the top: a room (a package or a module directly below slimclr/) imports from its own layer and from those below
# it. The words are what docs/import_graph.svg says of a room.
LAYERS: tuple[dict[str, str], ...] = (
    {"cli": "the command line", "__main__": ""},
    {"commands": "one module per subcommand"},
    {"stages": "what a rule runs: read, build, run, write"},
    {"plan": "hours, disk and memory before anything runs", "doctor": "is this machine fit?"},
    {
        "external_weights": "weights that a user put there",
        "absent": "checkpoints that recipes name and are not there",
        "results": "metrics.json of a stage",
        "build": "from a recipe to method, loader, trainer",
        "library": "what `import slimclr` gives",
    },
    {
        "probe": "linear probes, kNN",
        "detection": "transfer to COCO",
        "reporting": "tables, figures, page",
        "exporting": "one width as an ordinary network",
    },
    {"engine": "the training loop, checkpoints, processes"},
    {"methods": "MoCo v2 and v3, SimCLR, supervised", "analysis": "gradients of shared weights"},
    {
        "nn": "slimmable layers, ResNets, heads",
        "losses": "contrastive, distillation",
        "optim": "LARS, schedules",
        "data": "archives, stores, views, loaders",
        "miniature": "generated ImageNet and COCO",
    },
    {"config": "what a user may set, typed and frozen"},
    dict.fromkeys(
        (
            "arch",
            "digests",
            "errors",
            "files",
            "lock",
            "locks",
            "machine",
            "places",
            "progress",
            "provenance",
            "seeds",
            "statistics",
            "workers",
            "__init__",
        ),
        "",
    ),
)
# Rooms whose modules do not import one another. What they share lies in a layer below, or in one of the modules named.
SEPARATE: dict[str, tuple[str, ...]] = {"stages": ()}


class Import(NamedTuple):
    """One module imports another; `line` is where."""

    importer: str
    imported: str
    line: int


class Code:
    """The modules of a package and what they import of each other.

    Args:
        package: The package's folder; its name begins every module's name.

    Attributes:
        files: Path by module, in the order of paths; a package is its `__init__.py`.
        imports: Imports between the package's modules, also those inside functions, without those that only a type
            checker sees; a module that imports another twice has one.
    """

    def __init__(self, package: Path):
        self.package = package
        self.files: dict[str, Path] = {}
        for path in sorted(package.rglob("*.py")):
            parts = path.relative_to(package.parent).with_suffix("").parts
            self.files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
        self.trees = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in self.files.items()}
        self.imports: list[Import] = []
        for module, tree in self.trees.items():
            found: dict[str, int] = {}
            for node in _seen_at_run_time(tree):
                for name in self._imported(module, node):
                    found.setdefault(name, node.lineno)
            found.pop(module, None)
            self.imports += [Import(module, name, line) for name, line in found.items()]

    def room(self, module: str) -> str:
        """The part of the package that a module belongs to; the package's own `__init__` is a room."""
        parts = module.split(".")
        return parts[1] if len(parts) > 1 else "__init__"

    def where(self, found: Import) -> str:
        """`slimclr/a.py:3 imports slimclr.b`."""
        return f"{self.path(found.importer)}:{found.line} imports {found.imported}"

    def path(self, module: str) -> Path:
        """A module's path, as seen from the repository."""
        return self.files[module].relative_to(self.package.parent)

    def _imported(self, module: str, node: ast.stmt) -> Iterator[str]:
        """The modules of this package that one statement imports."""
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in self.files)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                is_package = self.files[module].name == "__init__.py"
                above = module.split(".")[: len(module.split(".")) - node.level + is_package]
                base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                # A name of a package is one of its modules, or something that its __init__ gives.
                inner = f"{base}.{alias.name}"
                yield from (name for name in (inner if inner in self.files else base,) if name in self.files)


def _seen_at_run_time(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from _seen_at_run_time(ast.Module([other], []))
        else:
            yield from _seen_at_run_time(node)


def unknown_rooms(code: Code, layers: tuple[dict[str, str], ...] = LAYERS) -> list[str]:
    """Rooms that no layer names."""
    known = {room for layer in layers for room in layer}
    rooms = dict.fromkeys(code.room(module) for module in code.files)
    return [f"{code.package.name}/{room}: in no layer; name it in LAYERS" for room in rooms if room not in known]


def upward(code: Code, layers: tuple[dict[str, str], ...] = LAYERS) -> list[str]:
    """Imports from a layer above."""
    level = {room: number for number, layer in enumerate(layers) for room in layer}
    found = []
    for each in code.imports:
        above, below = (code.room(module) for module in (each.importer, each.imported))
        if above in level and below in level and level[below] < level[above]:
            found.append(f"{code.where(each)}: up the layers, {above} lies below {below}")
    return found


def between_separate(code: Code, separate: dict[str, tuple[str, ...]] = SEPARATE) -> list[str]:
    """Imports between modules of a room whose modules have nothing to do with each other."""
    found = []
    for each in code.imports:
        room = code.room(each.importer)
        importer, imported = (module.split(".")[2:3] for module in (each.importer, each.imported))
        if room not in separate or room != code.room(each.imported) or importer == imported:
            continue
        if importer and imported and imported[0] not in separate[room]:
            found.append(f"{code.where(each)}: the modules of {room} do not import each other")
    return found


def circles(code: Code, layers: tuple[dict[str, str], ...] = LAYERS) -> list[str]:
    """Short circles of imports between modules, rooms of a layer, and rooms within a room.

    Longer ones show when these are cut.
    """
    level = {room: number for number, layer in enumerate(layers) for room in layer}
    found = []
    by_room: dict[tuple[str, str], Import] = {}
    for each in code.imports:
        room, other = code.room(each.importer), code.room(each.imported)
        if room != other and level.get(room) == level.get(other):
            by_room.setdefault((room, other), each)
    by_module = {(each.importer, each.imported): each for each in code.imports}
    # Rooms within a room, as slimclr.data.stores in slimclr.data.
    inner: dict[tuple[str, str], Import] = {}
    for each in code.imports:
        importer, imported = (".".join(module.split(".")[:3]) for module in (each.importer, each.imported))
        both_inside = each.importer.count(".") > 2 and each.imported.count(".") > 2
        if both_inside and importer != imported and code.room(each.importer) == code.room(each.imported):
            inner.setdefault((importer, imported), each)
    for edges, what in ((by_module, "circle"), (by_room, "circle of rooms"), (inner, "circle of inner rooms")):
        for circle in _circles(edges):
            steps = "; ".join(code.where(edges[step]) for step in pairwise(circle))
            found.append(f"{what} {' -> '.join(circle)}: {steps}")
    return found


def _circles(edges: Iterable[tuple[str, str]]) -> Iterator[list[str]]:
    """Shortest circles that have no node in common, with the first node at both ends."""
    following: dict[str, list[str]] = {}
    for start, end in edges:
        following.setdefault(start, []).append(end)
    done: set[str] = set()
    for node in sorted(following):
        circle = _way_back(node, following)
        if circle and not done.intersection(circle):
            yield circle
        done.update(circle)


def _way_back(start: str, following: dict[str, list[str]]) -> list[str]:
    """A shortest way from a node to itself; empty where there is none."""
    ways = [[start]]
    seen: set[str] = set()
    for way in ways:
        for end in following.get(way[-1], ()):
            if end == start:
                return [*way, end]
            if end not in seen:
                seen.add(end)
                ways.append([*way, end])
    return []


def too_long(code: Code, file_lines: int = MAX_FILE_LINES, function_lines: int = MAX_FUNCTION_LINES) -> list[str]:
    """Files and functions with more lines than that; a function's decorators do not count."""
    found = []
    for module, tree in code.trees.items():
        path = code.path(module)
        lines = len(code.files[module].read_text(encoding="utf-8").splitlines())
        if lines > file_lines:
            found.append(f"{path}: {lines} lines, at most {file_lines}")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > function_lines:
                    found.append(f"{path}:{node.lineno} {node.name}: {lines} lines, at most {function_lines}")
    return found


def offences(code: Code) -> list[str]:
    """Everything that is wrong with the house."""
    return [*unknown_rooms(code), *upward(code), *between_separate(code), *circles(code), *too_long(code)]


def main(root: Path = ROOT) -> int:
    """Name every offence; 1 where there is one."""
    found = offences(Code(root / "slimclr"))
    for offence in found:
        print(offence)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
