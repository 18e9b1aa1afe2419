"""Records that a kill or a disk damaged."""

import json

import pytest

from slimclr.engine.records import Records

LINES = [json.dumps({"step": step, "loss": 1.0}) + "\n" for step in range(1, 5)]


@pytest.mark.parametrize(
    ("damaged", "told"),
    [
        (b"\x82\xff\n", True),
        (b"[7]\n", True),
        (b'{"loss": 1}\n', True),
        (b"<html>\n", True),
        (b"[" * 100_000 + b"\n", True),
        (b'{"step": 3, "lo', False),  # what a killed run was writing
    ],
)
def test_records_up_to_the_damage_stay(tmp_path, capsys, damaged, told):
    rest = LINES[2] if damaged.endswith(b"\n") else ""
    (tmp_path / "metrics.jsonl").write_bytes("".join(LINES[:2]).encode() + damaged + rest.encode())
    Records(tmp_path, step=9).close()
    assert (tmp_path / "metrics.jsonl").read_text() == "".join(LINES[:2])
    line = f"{tmp_path}/metrics.jsonl: line 3 is damaged; the records from there on are lost, the training is not\n"
    assert capsys.readouterr().err == (line if told else "")
