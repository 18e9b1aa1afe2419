"""Config files as bad luck or an attacker would write them: one line each, that says where and what."""

from pathlib import Path

import pytest
import yaml

from slimclr.config import Pretrain, load_config, load_recipe, parse_section
from slimclr.config.strict_yaml import read_yaml
from slimclr.errors import UserError

RECIPE = """
seeds: [0]
pretrain:
  method: {name: mocov2}
  epochs: 2
  bn_batch: 256
  optimizer: {lr: 0.1}
probe:
  epochs: 1
  optimizer: {lr: 1.0}
"""


def refusal(read, path: Path) -> str:
    with pytest.raises(UserError) as error:
        read(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable(), "one line, and nothing that a terminal obeys"
    return message


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("lr: 0.1", "lr: .nan", "pretrain.optimizer.lr: Input should be a finite number, but it is NaN"),
        ("lr: 0.1", "lr: .inf", "pretrain.optimizer.lr: Input should be a finite number, but it is Infinity"),
        ("lr: 0.1", "lr: 0", "pretrain.optimizer.lr: Input should be greater than 0, but it is 0"),
        ("lr: 0.1", "lr: 1e30", 'optimizer.lr: Input should be less than or equal to 1000000000000, but it is "1e30"'),
        ("lr: 0.1", "lr: 0.1, momentum: 1", "pretrain.optimizer.momentum: Input should be less than 1, but it is 1"),
        ("lr: 0.1", "lr: 0.1, weight_decay: 1.0e+30", "weight_decay: Input should be less than or equal to 1, but"),
        ("name: mocov2", "name: mocov2, temperature: 0", "method.temperature: Input should be greater than 0, but"),
        ("name: mocov2", "name: mocov2, momentum: 1", "method.momentum: Input should be less than 1, but it is 1"),
        ("epochs: 2", "workers: -1\n  epochs: 2", "pretrain.workers: Input should be greater than or equal to 0, but"),
        ("epochs: 2", "epochs: 1.0e+30", "pretrain.epochs: Unable to parse input"),
        ("seeds: [0]", f"seeds: [{2**63}]", f"seeds.0: Input should be less than {2**32}, but it is {2**63}"),
        ("seeds: [0]", "seeds: [-1]", "seeds.0: Input should be greater than or equal to 0, but it is -1"),
    ],
)  # fmt: skip
def test_a_number_at_the_edge_is_refused(tmp_path, old, new, said):
    path = tmp_path / "run.yaml"
    path.write_text(RECIPE.replace(old, new, 1))
    assert said in refusal(load_recipe, path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("runs: [a]\ncoco: x\nruns: [b]\n", "line 3: the key 'runs' is there twice, first in line 1; keep one"),
        ("runs: [a]\npaths:\n  raw: x\n  'raw': y\n", "line 4: the key 'raw' is there twice, first in line 3"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("a: &a [*a]\n", "an alias of what it is in"),
        ("x0: &x0 [1]\n" + "".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]\n" for n in range(1, 10)), "values"),
        ("runs: !!python/object/apply:os.system [exit 1]\n", "could not determine a constructor for the tag"),
        ("runs: !!bool 7\n", "not valid YAML"),
        ("runs: 2020-13-45\n", "month must be in 1..12"),
        ('runs: [a]\npaths: {scratch: "a\\0b"}\n', "paths.scratch: String should match pattern"),
        ('runs: [a]\nexport: {licence: "mit\\nx"}\n', "export.licence: String should match pattern"),
        ('runs: ["\\e]0;x\\a"]\n', "runs.0: String should match pattern"),
        ("\x1b[31m: 1\n", "not valid YAML"),
        (b"runs: [\xff]\n", "not valid YAML: 'utf-8' codec"),
    ],
)
def test_a_trap_of_yaml_is_refused(tmp_path, text, said):
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert said in refusal(load_config, path)


def test_a_key_is_what_is_written_and_merged_keys_may_be_overridden(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("base: &base {on: 1, no: 2}\nown: {<<: *base, on: 3}\n1.0: x\n")
    assert read_yaml(path) == {"base": {"on": 1, "no": 2}, "own": {"on": 3, "no": 2}, "1.0": "x"}


def test_our_own_files_are_read_as_before():
    files = list((Path(__file__).parents[3] / "config").rglob("*.yaml"))
    assert len(files) > 10
    for file in files:
        assert read_yaml(file) == yaml.safe_load(file.read_text())


@pytest.mark.parametrize("text", ['{"epochs": NaN}', '{"a":' * 100_000])
def test_json_on_the_command_line_is_no_way_around(text):
    with pytest.raises(UserError) as error:
        parse_section(Pretrain, text)
    assert "command line: " in str(error.value)
