"""Draws docs/import_graph.svg: the rooms of slimclr/ in their layers, and which imports which.

`python -m tools.import_graph` writes it (`make config-docs` does).
`--check` only compares, for `make lint`. An arrow that follows from others is left out: A -> C beside A -> B -> C.
"""

import sys
from html import escape
from pathlib import Path
from textwrap import wrap
from typing import NamedTuple

from tools.house import LAYERS, ROOT, Code

PICTURE = "docs/import_graph.svg"

WIDTH, BOX, HEIGHT, GAP, MARGIN = 760, 166, 54, 28, 10
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #4a5561; text-anchor: middle }
.room { font: 600 14px ui-monospace, monospace; fill: #17212b }
rect { fill: #f4f6f8; stroke: #b4bec8 }
path { fill: none; stroke: #8794a1; stroke-width: 1.3; marker-end: url(#head) }
marker path { fill: #8794a1; stroke: none; marker-end: none }
@media (prefers-color-scheme: dark) {
  text { fill: #a9b4bf } .room { fill: #e8edf2 }
  rect { fill: #1d252d; stroke: #4b5763 }
  path { stroke: #75828f } marker path { fill: #75828f }
}
"""


class Box(NamedTuple):
    """Where a room is drawn: the middle of its upper edge, and its width."""

    x: float
    y: float
    width: float = BOX


def edges(code: Code, layers: tuple[dict[str, str], ...] = LAYERS) -> list[tuple[str, str]]:
    """Which drawn room imports which, without what follows from other arrows; those up the layers are left out."""
    level = {room: number for number, layer in enumerate(layers) for room, words in layer.items() if words}
    pairs = {(code.room(each.importer), code.room(each.imported)) for each in code.imports}
    down = {(a, b) for a, b in pairs if a != b and a in level and b in level and level[a] <= level[b]}
    following = {room: {b for a, b in down if a == room} for room in level}
    reached = {room: _reached(room, following) for room in level}
    return sorted((a, b) for a, b in down if not any(b in reached[middle] for middle in following[a] - {b}))


def _reached(room: str, following: dict[str, set[str]]) -> set[str]:
    reached: set[str] = set()
    ways = [room]
    while ways:
        new = following[ways.pop()] - reached
        reached |= new
        ways += new
    return reached


def places(layers: tuple[dict[str, str], ...], rooms: set[str]) -> tuple[dict[str, Box], float]:
    """Where each of the rooms with words is drawn, and the y below the last."""
    boxes: dict[str, Box] = {}
    y: float = MARGIN
    for layer in layers:
        row = [room for room, words in layer.items() if words and room in rooms]
        for number, room in enumerate(row):
            boxes[room] = Box(WIDTH * (number + 0.5) / len(row), y)
        y += (HEIGHT + GAP) if row else 0
    return boxes, y


def draw(code: Code, layers: tuple[dict[str, str], ...] = LAYERS) -> str:
    """The picture: a row for each layer, what has no words in the last layer as one box for all."""
    rooms = {code.room(module) for module in code.files}
    boxes, y = places(layers, rooms)
    words = {room: text for layer in layers for room, text in layer.items()}
    parts = [_arrow(boxes[start], boxes[end]) for start, end in edges(code, layers) if {start, end} <= set(boxes)]
    parts += [_box(box, room, wrap(words[room], 25)) for room, box in boxes.items()]
    common = [room for room in layers[-1] if room in rooms and not room.startswith("_")]
    parts.append(_box(Box(WIDTH / 2, y, WIDTH - 2 * MARGIN), "for all of them", [", ".join(common)]))
    height = y + HEIGHT + MARGIN
    title = "slimclr's rooms: an arrow goes from a room to one that it imports from, always downward"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img">',
            f"<title>{title}</title>",
            f"<style>{STYLE}</style>",
            '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path d="M0 0 8 4 0 8z"/></marker>',
            *parts,
            "</svg>\n",
        ]
    )


def _box(box: Box, name: str, lines: list[str]) -> str:
    first = box.y + (HEIGHT - 16 * len(lines)) / 2 + 5
    texts = [f'<text class="room" x="{box.x:g}" y="{first:g}">{escape(name)}</text>']
    texts += [
        f'<text x="{box.x:g}" y="{first + 16 * (number + 1):g}">{escape(line)}</text>'
        for number, line in enumerate(lines)
    ]
    corner = f'x="{box.x - box.width / 2:g}" y="{box.y:g}" width="{box.width:g}" height="{HEIGHT}"'
    return f'<rect {corner} rx="6"/>' + "".join(texts)


def _arrow(start: Box, end: Box) -> str:
    if start.y == end.y:
        side = BOX / 2 if end.x > start.x else -BOX / 2
        return f'<path d="M{start.x + side:g} {start.y + HEIGHT / 2:g}H{end.x - side:g}"/>'
    top, bottom = start.y + HEIGHT, end.y
    bend = min(GAP, (bottom - top) / 2)
    # Arrows of one room leave it side by side, in the direction of their ends.
    shift = max(-BOX / 3, min(BOX / 3, (end.x - start.x) / 5))
    first, last = start.x + shift, end.x - shift
    return f'<path d="M{first:g} {top:g}C{first:g} {top + bend:g} {last:g} {bottom - bend:g} {last:g} {bottom:g}"/>'


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Write the picture, or with `--check` say whether it is the one that the code gives."""
    drawn = draw(Code(root / "slimclr"))
    picture = root / PICTURE
    if arguments != ["--check"]:
        picture.write_text(drawn, encoding="utf-8")
    elif not picture.exists() or picture.read_text(encoding="utf-8") != drawn:
        print(f"{PICTURE}: not what the code says; renew it with make config-docs")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
