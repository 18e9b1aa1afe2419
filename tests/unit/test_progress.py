"""Progress in a log file: plain lines with rate and time left."""

from slimclr import progress as module


def test_plain_lines_say_rate_and_time_left(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with module.progress("pretrain demo", 100, unit="steps") as advance:
        for _ in range(30):
            now[0] += 0.5
            advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "pretrain demo: 20/100 steps, 2.0 steps/s, 0:00:40 left"
    assert lines[-1] == "pretrain demo: 30/100 steps, 2.0 steps/s, 0:00:35 left"


def test_a_note_stays_until_the_next(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with module.progress("pretrain demo", 40, unit="steps") as advance:
        for step in range(40):
            now[0] += 0.5
            advance(1, "loss 2.3" if step == 5 else "")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "pretrain demo: 20/40 steps, 2.0 steps/s, 0:00:10 left, loss 2.3"
