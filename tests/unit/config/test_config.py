"""The config refuses mistakes before any job starts, each with one line."""

import json
from pathlib import Path

import pytest
import yaml

from slimclr.config import dump, fingerprint, json_schema, load_config, load_recipe, load_recipes, seeded_runs
from slimclr.config.docs import markdown
from slimclr.errors import UserError

ROOT = Path(__file__).parents[3]
# Figures of ../shared/facts/recipes.md, read from the authors' released scripts.
PAPER = {
    "slimclr_mocov2_200ep": (200, 100, 1024, "sgd", 0.2, None, 1e-4, 0.05, 60.0, 100),
    "slimclr_mocov2_800ep": (800, 400, 1024, "sgd", 0.2, None, 1e-4, 0.0125, 60.0, 100),
    "slimclr_mocov3_300ep": (300, 150, 1024, "lars", 1.2, 3.2, 1e-6, 0.033, 0.4, 90),
    "slimclr_simclr_100ep": (100, 50, 1024, "lars", 2.4, None, 1e-6, 0.1, 0.4, 90),
    "supervised_slimmable_100ep": (100, 0, 512, "sgd", 0.2, None, 1e-4, 0.05, None, 0),
}
BASELINES = {
    "mocov2_200ep": "slimclr_mocov2_200ep",
    "mocov3_300ep": "slimclr_mocov3_300ep",
    "simclr_100ep": "slimclr_simclr_100ep",
    "supervised_100ep": "supervised_slimmable_100ep",
}


def recipe(**changes):
    """A small valid recipe with some keys changed, `pretrain__epochs=3` for nested ones."""
    value = {
        "pretrain": {"method": {"name": "mocov2"}, "epochs": 2, "bn_batch": 256, "optimizer": {"lr": 0.1}},
        "probe": {"epochs": 1, "optimizer": {"lr": 1.0}},
    }
    for path, change in changes.items():
        *parents, last = path.split("__")
        part = value
        for parent in parents:
            part = part.setdefault(parent, {})
        part[last] = change
    return value


@pytest.fixture(scope="module")
def paper():
    return load_recipes(load_config(ROOT / "config" / "config.yaml"), ROOT)


@pytest.mark.parametrize("run", PAPER)
def test_recipes_hold_the_published_values(paper, run):
    pretrain, probe = paper[run].pretrain, paper[run].probe
    got = (
        pretrain.epochs,
        pretrain.slow_start_epoch,
        pretrain.batch,
        pretrain.optimizer.name,
        pretrain.optimizer.lr,
        pretrain.schedule.slim_start_lr,
        pretrain.optimizer.weight_decay,
        pretrain.schedule.warmup,
        probe.optimizer and probe.optimizer.lr,
        probe.epochs,
    )
    assert got == PAPER[run]
    assert pretrain.backbone.widths == (1.0, 0.75, 0.5, 0.25)
    assert paper[run].paper


@pytest.mark.parametrize("run", BASELINES)
def test_a_baseline_is_the_recipe_with_the_single_width(paper, run):
    own, slim = paper[run].pretrain, paper[BASELINES[run]].pretrain
    assert own.backbone.widths == (1.0,)
    for key in ("method", "epochs", "batch", "batch_norm", "bn_batch", "optimizer", "views", "precision"):
        assert getattr(own, key) == getattr(slim, key), key
    assert paper[run].probe == paper[BASELINES[run]].probe


def test_only_the_named_runs_transfer(paper):
    transfers = {run for run, one in paper.items() if one.transfer}
    assert transfers == {"slimclr_mocov2_800ep", "supervised_slimmable_100ep", "random_resnet50"}


def test_cifar10s_runs_are_valid_and_keep_away_from_coco():
    config = load_config(ROOT / "config" / "cifar10.yaml")
    runs = load_recipes(config, ROOT)
    assert config.cifar10 == "cifar-10-python.tar.gz"
    for recipe in runs.values():
        assert (recipe.paper, recipe.transfer) == (False, False)
        assert recipe.pretrain.backbone.arch == "resnet20x4"
        assert recipe.pretrain.backbone.widths == (1.0, 0.75, 0.5, 0.25)
        assert (recipe.pretrain.image_size, recipe.probe.image_size) == (32, 32)
    slim = runs["cifar10_slimclr_mocov2"].pretrain
    # The figures of the paper's study.
    assert (slim.batch, slim.optimizer.lr, slim.optimizer.weight_decay) == (512, 0.06, 5e-4)
    assert (slim.method.queue, slim.method.momentum, slim.method.temperature) == (4096, 0.99, 0.1)
    assert runs["random_resnet20x4"].probe == runs["cifar10_slimclr_mocov2"].probe


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"miniature": {"seed": 0}}, "cifar10 'c.tar' takes ImageNet's place, but there is also miniature; keep one"),
        ({"imagenet": {"expect": "subset"}}, "but there is also imagenet; keep one"),
        ({"cifar10": ""}, "x.yaml: cifar10: String should have at least 1 character"),
        ({"imagenet": {"recordio_resize": 0}}, "imagenet.recordio_resize: Input should be greater than or equal to 1"),
    ],
)
def test_a_mistake_about_the_data_gives_one_line(change, line):
    with pytest.raises(UserError) as error:
        load_config({"cifar10": "c.tar", "runs": ["a"]} | change, name="x.yaml")
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_a_resolved_config_can_be_read_again():
    config = load_config({"cifar10": "c.tar", "runs": ["a"]})
    assert load_config(dump(config)) == config


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"pretrain__epocs": 3}, "x.yaml: pretrain.epocs: unknown key (did you mean 'epochs'?); allowed: "),
        (
            {"pretrain__method__dimm": 3},
            "x.yaml: pretrain.method.dimm: unknown key (did you mean 'dim'?); allowed: dim",
        ),
        ({"pretrain__backbone__widths": [0.5, 0.3]}, "width 0.3 of 64 channels is 19.2, not a whole number"),
        ({"pretrain__backbone__widths": [0.5, 0.25]}, "widths [0.5, 0.25] must have 1.0"),
        ({"pretrain__backbone__depth": 18}, "depth 18 is not one of 14, 26, 50, 101, 152"),
        (
            {"pretrain__optimizer__lr": -1},
            "x.yaml: pretrain.optimizer.lr: Input should be greater than 0, but it is -1",
        ),
        ({"pretrain__epochs": "many"}, "x.yaml: pretrain.epochs: Input should be a valid integer"),
        ({"pretrain__method__name": "byol"}, "'mocov2', 'mocov3', 'simclr', 'supervised', 'random'"),
        ({"pretrain__slow_start_epoch": 2}, "slow_start_epoch 2 must come before the end, epoch 2"),
        ({"pretrain__bn_batch": None}, "batch_norm per_gpu needs bn_batch"),
        ({"pretrain__bn_batch": 300}, "batch 1024 is not a multiple of bn_batch 300"),
        ({"pretrain__method__queue": 1000}, "method.queue 1000 is not a multiple of batch 1024"),
        (
            {"pretrain__batch": 1, "pretrain__bn_batch": 1, "pretrain__image_size": 32},
            "x.yaml: pretrain: bn_batch 1: batch norm would see a single value of each channel, which has no "
            "deviation; give it two images or more",
        ),
        (
            {
                "pretrain__method": {"name": "simclr"},
                "pretrain__views": "simclr",
                "pretrain__batch": 1,
                "pretrain__batch_norm": "synchronised",
                "pretrain__bn_batch": None,
            },
            "x.yaml: pretrain: batch 1: batch norm would see a single value",
        ),
        ({"pretrain__views": "slim"}, "views slim does not give the views of method mocov2"),
        (
            {"pretrain__backbone__widths": [1.0], "pretrain__loss_weights": "share"},
            'loss_weights "share" needs sub-networks',
        ),
        ({"seeds": [1, 1]}, "seeds [1, 1] names a seed twice"),
        ({"probe__epochs": 0}, "probe.epochs 0 must be at least 1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_mistake_gives_one_line_with_path_and_value(change, line):
    with pytest.raises(UserError) as error:
        load_recipe(recipe(**change), name="x.yaml")
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_a_misspelt_required_key_gives_one_line():
    value = recipe()
    value["pretrain"]["epocs"] = value["pretrain"].pop("epochs")
    with pytest.raises(UserError) as error:
        load_recipe(value, name="x.yaml")
    assert "did you mean 'epochs'?" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_run_without_recipe_names_the_closest():
    with pytest.raises(UserError, match=r"'mocov2_200' has no recipe.*did you mean 'mocov2_200ep'"):
        load_recipes(load_config({"runs": ["mocov2_200"]}), ROOT)


def test_a_comment_or_a_spelled_out_default_does_not_change_the_fingerprint(tmp_path):
    plain, commented = tmp_path / "a.yaml", tmp_path / "b.yaml"
    plain.write_text(yaml.safe_dump(recipe()))
    commented.write_text("# a comment\n" + yaml.safe_dump(recipe(pretrain__precision="fp32"), sort_keys=True))
    assert fingerprint(load_recipe(plain)) == fingerprint(load_recipe(commented))
    assert fingerprint(load_recipe(plain)) != fingerprint(load_recipe(recipe(pretrain__optimizer__lr=0.2)))


def test_a_loaded_config_is_frozen():
    loaded = load_recipe(recipe())
    with pytest.raises(ValueError, match="frozen"):
        loaded.pretrain.epochs = 3


def test_the_first_seed_keeps_the_name_of_the_run():
    loaded = load_recipe(recipe(seeds=[3, 4]))
    assert seeded_runs("a", loaded) == {"a": 3, "a_seed4": 4}


def test_schema_and_readme_are_generated_from_the_models():
    written = json.loads((ROOT / "config" / "schema.json").read_text())
    assert written == json_schema(), "renew it: make config-docs"
    assert (ROOT / "config" / "README.md").read_text() == markdown(), "renew it: make config-docs"


def test_every_key_has_an_explanation():
    definitions = json_schema()["$defs"]
    silent = [
        f"{name}.{key}"
        for name, definition in definitions.items()
        for key, field in definition["properties"].items()
        # a section is explained by its own heading, a tag by its section's
        if "description" not in field and not {"$ref", "oneOf", "const", "anyOf"} & set(field)
    ]
    assert silent == []


def test_quick_probes_read_images_as_the_probe_does_where_they_do_not_say():
    probe = {"epochs": 1, "optimizer": {"lr": 1.0}, "image_size": 64, "resize": 72, "workers": 2}
    pretrain = {"method": {"name": "random"}, "epochs": 0}
    for quick, sizes in ((None, (64, 72)), ({}, (64, 72)), ({"resize": 224, "neighbours": [5]}, (64, 224))):
        section = load_recipe({"pretrain": pretrain, "probe": probe, "quick": quick}).quick_section
        assert (section.image_size, section.resize, section.workers) == (*sizes, 2)
        assert section.neighbours == ((5,) if quick else (10, 20, 100, 200))
    with pytest.raises(UserError, match=r"quick: neighbours \[5, 5\] names a value twice"):
        load_recipe({"pretrain": pretrain, "probe": probe, "quick": {"neighbours": [5, 5]}})


CHECKPOINT = {"checkpoint": {"file": "net-12345678.pth.tar"}, "probe": {"epochs": 0}}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"checkpoint": None}, "x: pretrain and checkpoint are both missing"),
        ({"pretrain": recipe()["pretrain"]}, "x: pretrain and checkpoint exclude each other"),
        ({"checkpoint": {"file": "net.pth"}}, "checkpoint: sha256 is missing, and the name 'net.pth' ends in no hash"),
        ({"checkpoint": {"file": "../net-12345678.pth"}}, "'../net-12345678.pth' is no file below paths.raw/released"),
        ({"checkpoint": {"file": "net.pth", "sha256": "abc"}}, "checkpoint.sha256: String should match pattern"),
        ({"checkpoint": CHECKPOINT["checkpoint"] | {"method": "mocov2"}}, "x: probe.epochs 0 must be at least 1"),
        ({"checkpoint": CHECKPOINT["checkpoint"] | {"md5": "a"}}, "checkpoint.md5: unknown key"),
    ],
)
def test_a_mistake_about_a_checkpoint_gives_one_line(change, line):
    load_recipe(CHECKPOINT)
    with pytest.raises(UserError) as error:
        load_recipe(CHECKPOINT | change, name="x")
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_the_released_files_are_runs():
    runs = load_recipes(load_config(ROOT / "config/released.yaml"), ROOT)
    assert {one.checkpoint.file: one.checkpoint.method for one in runs.values()} == {
        "slimclr-mocov2-ep200-48213217.pth.tar": "mocov2",
        "slimclr-mocov2-ep200-lincls-789b1a3b17.pth.tar": "probe",
        "slimclr-mocov2-ep800-eda810a6a9.pth.tar": "mocov2",
        "slimclr-mocov2-ep800-lincls-35600f623f.pth.tar": "probe",
        "slimclr-mocov3-ep300-57e298e9cd.pth.tar": "mocov3",
        "slimclr-mocov3-ep300-lincls-e35321e95c.pth.tar": "probe",
    }
    papers = load_recipes(load_config(ROOT / "config/config.yaml"), ROOT)
    for run in ("mocov2_200ep", "mocov2_800ep", "mocov3_300ep"):
        assert runs[f"released_{run}"].probe == papers[f"slimclr_{run}"].probe
        assert runs[f"released_{run}_lincls"].probe.epochs == 0
