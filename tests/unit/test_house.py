"""The checks of how slimclr/ is built, on small packages that break each rule."""

import pytest

from tools import house, import_graph
from tools.house import Code

LAYERS = (
    {"stages": "top"},
    {"engine": "middle", "probe": "middle"},
    {"nn": "below", "data": "below"},
    {"errors": "", "__init__": ""},
)
SOUND = {
    "__init__.py": "",
    "errors.py": "",
    "stages/__init__.py": "",
    "stages/train.py": "from pkg.engine.loop import train\nfrom pkg.errors import UserError\n",
    "engine/__init__.py": "",
    "engine/loop.py": "import pkg.nn.layers\nfrom ..errors import UserError\n",
    "probe.py": "",
    "nn/__init__.py": "from pkg.nn.layers import Layer\n",
    "nn/layers.py": "from pkg.errors import UserError\n",
    "data.py": "",
}


@pytest.fixture
def package(tmp_path):
    def write(**changed: str) -> Code:
        for name, text in (SOUND | {key.replace("__", "/") + ".py": text for key, text in changed.items()}).items():
            path = tmp_path / "pkg" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return Code(tmp_path / "pkg")

    return write


def faults(code: Code) -> list[str]:
    return [
        *house.unknown_rooms(code, LAYERS),
        *house.upward(code, LAYERS),
        *house.between_separate(code, {"stages": ("command",)}),
        *house.circles(code, LAYERS),
        *house.too_long(code, 5, 3),
    ]


def test_rooms_within_a_room_form_no_circle(package):
    code = package(
        engine__a__one="import pkg.engine.b.one",
        engine__a__two="",
        engine__b__one="",
        engine__b__two="import pkg.engine.a.two",
    )
    (fault,) = faults(code)
    assert fault.startswith(
        "circle of inner rooms pkg.engine.a -> pkg.engine.b -> pkg.engine.a: pkg/engine/a/one.py:1 imports"
    )


def test_a_sound_package_has_no_fault(package):
    assert faults(package()) == []


@pytest.mark.parametrize(
    "text",
    [
        "\nfrom pkg.engine.loop import train\n",
        "\nimport pkg.engine.loop\n",
        "\nfrom pkg.engine import loop\n",
        "\nfrom ..engine import loop\n",
        "def late():\n    from pkg.engine.loop import train\n",
    ],
)
def test_an_import_up_the_layers_is_named_with_its_line(package, text):
    assert faults(package(nn__heads=text)) == [
        "pkg/nn/heads.py:2 imports pkg.engine.loop: up the layers, nn lies below engine"
    ]


def test_what_only_a_type_checker_sees_is_no_import(package):
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pkg.engine.loop import train\n"
    assert faults(package(nn__heads=text)) == []


def test_a_circle_of_modules_is_named_once_also_when_it_closes_inside_a_function(package):
    code = package(
        nn__a="import pkg.nn.b\n", nn__b="from pkg.nn import c\n", nn__c="def f():\n    from pkg.nn.a import x\n"
    )
    assert faults(code) == [
        "circle pkg.nn.a -> pkg.nn.b -> pkg.nn.c -> pkg.nn.a: pkg/nn/a.py:1 imports pkg.nn.b; "
        "pkg/nn/b.py:1 imports pkg.nn.c; pkg/nn/c.py:2 imports pkg.nn.a"
    ]


def test_a_circle_through_a_package_that_gives_the_name(package):
    code = package(nn__layers="from pkg.nn import Layer\n")
    assert faults(code) == [
        "circle pkg.nn -> pkg.nn.layers -> pkg.nn: pkg/nn/__init__.py:1 imports pkg.nn.layers; "
        "pkg/nn/layers.py:1 imports pkg.nn"
    ]


def test_rooms_of_one_layer_may_use_each_other_one_way_only(package):
    assert faults(package(engine__a="import pkg.probe\n")) == []
    (fault,) = faults(package(engine__a="import pkg.probe\n", probe="import pkg.engine.loop\n"))
    assert fault == (
        "circle of rooms engine -> probe -> engine: pkg/engine/a.py:1 imports pkg.probe; "
        "pkg/probe.py:1 imports pkg.engine.loop"
    )


def test_stages_do_not_import_each_other_but_what_they_are_allowed_to_share(package):
    code = package(stages__command="", stages__probe="import pkg.stages.command\nimport pkg.stages.train\n")
    assert faults(code) == [
        "pkg/stages/probe.py:2 imports pkg.stages.train: the modules of stages do not import each other"
    ]


def test_a_room_without_a_layer(package):
    assert faults(package(export="")) == ["pkg/export: in no layer; name it in LAYERS"]


def test_long_files_and_functions(package):
    code = package(probe="class A:\n    @cached\n    def f():\n        x\n        y\n        z\n")
    assert faults(code) == ["pkg/probe.py: 6 lines, at most 5", "pkg/probe.py:3 f: 4 lines, at most 3"]


def test_the_command_names_every_fault_and_fails(tmp_path, capsys):
    (tmp_path / "slimclr").mkdir()
    assert house.main(tmp_path) == 0
    (tmp_path / "slimclr/engine.py").write_text("")
    (tmp_path / "slimclr/nn.py").write_text("import slimclr.engine\n" * 401)
    assert house.main(tmp_path) == 1
    assert capsys.readouterr().out.splitlines() == [
        "slimclr/nn.py:1 imports slimclr.engine: up the layers, nn lies below engine",
        "slimclr/nn.py: 401 lines, at most 400",
    ]


def test_the_picture_leaves_out_arrows_that_follow_from_others(package):
    code = package(stages__train="import pkg.engine.loop, pkg.nn\n", data="from pkg.errors import UserError\n")
    assert import_graph.edges(code, LAYERS) == [("engine", "nn"), ("stages", "engine")]
    drawn = import_graph.draw(code, LAYERS)
    assert drawn.count("<path d=") == 2 + 1, "two arrows and the arrowhead"
    assert [room for room in ("stages", "engine", "probe", "nn", "data") if f">{room}</text>" not in drawn] == []
    assert ">errors</text>" in drawn


def test_a_picture_that_is_not_what_the_code_says_is_refused_until_it_is_drawn_again(tmp_path, capsys):
    for folder in ("slimclr", "docs"):
        (tmp_path / folder).mkdir()
    assert import_graph.main(["--check"], tmp_path) == 1
    assert import_graph.main([], tmp_path) == 0
    assert import_graph.main(["--check"], tmp_path) == 0
    (tmp_path / "slimclr/engine.py").write_text("")
    assert import_graph.main(["--check"], tmp_path) == 1
    assert (
        capsys.readouterr().out.splitlines()
        == ["docs/import_graph.svg: not what the code says; renew it with make config-docs"] * 2
    )
