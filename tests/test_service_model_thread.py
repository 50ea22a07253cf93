from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, wait

import pytest

from service.generation import GenerationRequest
from service.model_thread import ModelThread, Overloaded
from tests.fakes_service import ScriptedGenerator
from tuner.decoding import Sampling

REQUEST = GenerationRequest((1, 2, 3), None, Sampling())


@pytest.fixture
def generator() -> ScriptedGenerator:
    return ScriptedGenerator()


@pytest.fixture
def thread(generator: ScriptedGenerator) -> Iterator[ModelThread]:
    thread = ModelThread(generator, queue_size=3)
    yield thread
    generator.release()
    thread.close()


def test_submission_comes_back_decoded(thread: ModelThread, generator: ScriptedGenerator) -> None:
    generator.enqueue("one", "two")
    generated = thread.submit([REQUEST, REQUEST]).result(5)
    assert [decoded.text for decoded in generated.decoded] == ["one", "two"]
    assert generated.queue_ms >= 0
    assert generated.generate_ms >= 0


def test_requests_that_wait_are_generated_in_one_batch(
    thread: ModelThread, generator: ScriptedGenerator
) -> None:
    generator.hold()
    futures = [thread.submit([REQUEST])]
    assert generator.started.wait(5)
    futures += [thread.submit([REQUEST]) for _ in range(3)]
    generator.release()
    wait(futures, 5)
    assert [len(batch) for batch in generator.history] == [1, 3]


def test_full_queue_turns_requests_away(thread: ModelThread, generator: ScriptedGenerator) -> None:
    generator.hold()
    thread.submit([REQUEST])
    assert generator.started.wait(5)
    for _ in range(3):
        thread.submit([REQUEST])
    with pytest.raises(Overloaded, match="3 requests are waiting") as caught:
        thread.submit([REQUEST])
    assert caught.value.retry_after_seconds >= 1


def test_cancelled_request_leaves_room_in_the_queue(
    thread: ModelThread, generator: ScriptedGenerator
) -> None:
    generator.hold()
    thread.submit([REQUEST])
    assert generator.started.wait(5)
    waiting = [thread.submit([REQUEST]) for _ in range(3)]
    waiting[0].cancel()
    thread.submit([REQUEST])


def test_cancelling_the_only_request_stops_the_generator(
    thread: ModelThread, generator: ScriptedGenerator
) -> None:
    generator.hold()
    future = thread.submit([REQUEST])
    assert generator.started.wait(5)
    assert future.cancel()
    assert generator.cancelled.wait(5)
    generator.release()
    assert thread.submit([REQUEST]).result(5).decoded[0].text == "scripted answer"


def test_exception_fails_only_the_request_that_causes_it(
    thread: ModelThread, generator: ScriptedGenerator
) -> None:
    generator.hold()
    first = thread.submit([REQUEST])
    assert generator.started.wait(5)
    batch = [thread.submit([REQUEST]) for _ in range(2)]
    generator.enqueue("fine", RuntimeError("spoilt together"), RuntimeError("spoilt alone"), "fine alone")
    generator.release()
    assert first.result(5).decoded[0].text == "fine"
    with pytest.raises(RuntimeError, match="spoilt alone"):
        batch[0].result(5)
    assert batch[1].result(5).decoded[0].text == "fine alone"


def test_close_finishes_what_waits_and_takes_no_more(
    thread: ModelThread, generator: ScriptedGenerator
) -> None:
    generator.hold()
    futures = [thread.submit([REQUEST])]
    assert generator.started.wait(5)
    futures.append(thread.submit([REQUEST]))
    closing = threading.Thread(target=thread.close)
    closing.start()
    while thread.ready():
        threading.Event().wait(0.001)
    with pytest.raises(Overloaded, match="shutting down"):
        thread.submit([REQUEST])
    generator.release()
    closing.join(5)
    assert all(future.done() for future in futures)


def test_thread_without_a_sign_of_life_is_not_ready(
    thread: ModelThread, generator: ScriptedGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert thread.ready()
    monkeypatch.setattr("service.model_thread.STALLED_AFTER_SECONDS", -1.0)
    assert not thread.ready()


def test_cancelled_future_raises_for_whoever_still_asks(
    thread: ModelThread, generator: ScriptedGenerator
) -> None:
    generator.hold()
    thread.submit([REQUEST])
    assert generator.started.wait(5)
    waiting = thread.submit([REQUEST])
    waiting.cancel()
    generator.release()
    with pytest.raises(CancelledError):
        waiting.result(5)
