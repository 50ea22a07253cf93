import io

import pytest
from rich.console import Console

import indexer.progress as shown
from indexer.progress import progress


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(shown.time, "monotonic", lambda: now[0])
    return now


def test_what_an_earlier_run_did_says_nothing_of_the_time_left(clock):
    out = Console(file=io.StringIO(), width=100)
    with progress("training", 100, out, done=60) as advance:
        clock[0] = 20.0
        advance(10)
    assert "training: 70/100, about 60 s left" in out.file.getvalue()
    assert "training: 70/100 in 20.0 s" in out.file.getvalue()


def test_lines_come_now_and_then_and_carry_a_note(clock):
    out = Console(file=io.StringIO(), width=100)
    with progress("embedding", 4, out) as advance:
        for second in (10.0, 20.0, 30.0, 40.0):
            clock[0] = second
            advance(1, "loss 1.00")
    assert out.file.getvalue().splitlines() == [
        "embedding: 2/4, about 20 s left loss 1.00",
        "embedding: 4/4 in 40.0 s",
    ]
