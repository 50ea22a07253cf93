"""Threads beside the model thread compute with one OpenMP thread, and leave none behind."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from service.live import LiveAnswerer
from service.model_thread import ModelThread
from service.worker_threads import run_and_forget_threads, run_beside_model
from tests.fakes_service import ScriptedGenerator, make_answerer


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """As many as torch may use elsewhere, also where the tests run with one."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def multiply() -> int:
    """Torch's threads while it computes in this thread."""
    torch.randn(600, 600) @ torch.randn(600, 600)
    return torch.get_num_threads()


def test_work_beside_the_model_has_one_thread_and_changes_nobody_elses() -> None:
    before = multiply()
    assert asyncio.run(run_beside_model(multiply)) == 1
    assert multiply() == before


def threads() -> set[int]:
    return {thread.id for thread in psutil.Process().threads()}


def test_a_thread_that_is_forgotten_takes_its_threads_with_it() -> None:
    multiply()
    before = threads()
    count, inside = run_and_forget_threads(lambda: (multiply(), threads()))
    assert count > 1
    assert inside - before
    deadline = time.monotonic() + 10
    while (inside - before) & threads():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_is_raised_there_is_raised_here() -> None:
    def fail() -> None:
        raise LookupError(threading.current_thread().name)

    for run in (run_and_forget_threads, lambda work: asyncio.run(run_beside_model(work))):
        with pytest.raises(LookupError) as caught:
            run(fail)
        assert str(caught.value) != threading.current_thread().name


def test_questions_are_prepared_with_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = ScriptedGenerator("88 metres")
    answerer = make_answerer(tmp_path, generator)
    prepare, counts = answerer.prepare, []
    monkeypatch.setattr(
        answerer, "prepare", lambda *given: counts.append(torch.get_num_threads()) or prepare(*given)
    )
    model_thread = ModelThread(generator)
    live = LiveAnswerer(answerer, model_thread, 30.0)

    async def ask() -> str:
        underway = await live.begin(["How high?"], answerer.route("base"))
        return (await underway.told())[0].answer.answer

    try:
        assert asyncio.run(ask()) == "88 metres"
    finally:
        model_thread.close()
    assert counts == [1]
