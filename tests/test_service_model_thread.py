from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, wait

import pytest

from service.admission import Overloaded, TooMuchAtOnce
from service.generation import GenerationRequest, Run
from service.model_thread import GenerationFailed, ModelThread
from tests.fakes_service import FailsLater, ScriptedGenerator
from tuner.decoding import Sampling
from tuner.registry import AdapterError

REQUEST = GenerationRequest((1, 2, 3), None, Sampling())


def until(condition: Callable[[], bool]) -> None:
    """Wait for another thread; fails after five seconds."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.001)


@pytest.fixture
def generator() -> ScriptedGenerator:
    return ScriptedGenerator()


@pytest.fixture
def thread(generator: ScriptedGenerator) -> Iterator[ModelThread]:
    thread = ModelThread(generator, queue_size=3, batch_tokens=1)  # one row at a time
    yield thread
    generator.release()
    thread.close()


def test_submission_comes_back_decoded(generator: ScriptedGenerator) -> None:
    thread = ModelThread(generator)
    generator.enqueue("one", "two")
    generated = thread.submit([REQUEST, REQUEST]).result(5)
    thread.close()
    assert [decoded.text for decoded in generated.decoded] == ["one", "two"]
    assert generated.queue_ms >= 0
    assert generated.generate_ms >= 0


def test_new_requests_join_the_running_batch(generator: ScriptedGenerator) -> None:
    thread = ModelThread(generator)
    generator.hold()
    futures = [thread.submit([REQUEST])]
    assert generator.started.wait(5)
    futures += [thread.submit([REQUEST]) for _ in range(3)]
    until(lambda: sum(map(len, generator.history)) == 4)
    assert not any(future.done() for future in futures)
    generator.release()
    assert not wait(futures, 5).not_done
    thread.close()


def test_rows_wait_that_do_not_fit_beside_those_that_run(
    thread: ModelThread, generator: ScriptedGenerator
) -> None:
    generator.hold()
    futures = [thread.submit([REQUEST])]
    assert generator.started.wait(5)
    futures += [thread.submit([REQUEST]) for _ in range(2)]
    assert thread.waiting() == 2
    generator.release()
    assert not wait(futures, 5).not_done
    assert [len(batch) for batch in generator.history] == [1, 1, 1]


def test_text_arrives_in_pieces_that_join_to_the_answer(generator: ScriptedGenerator) -> None:
    thread = ModelThread(generator)
    generator.enqueue("the tower is high", "no")
    pieces: list[tuple[int, str]] = []
    thread.submit([REQUEST, REQUEST], lambda place, text: pieces.append((place, text))).result(5)
    assert "".join(text for place, text in pieces if place == 0) == "the tower is high"
    assert len([text for place, text in pieces if place == 0]) == 4
    assert [text for place, text in pieces if place == 1] == ["no"]
    thread.close()


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


def test_exception_fails_only_the_request_that_causes_it(generator: ScriptedGenerator) -> None:
    thread = ModelThread(generator)
    generator.enqueue("one two three", RuntimeError("spoilt together"), "fine", "fine alone")
    generator.enqueue(RuntimeError("spoilt alone"), "fine alone")
    generator.hold()
    batch = [thread.submit([REQUEST]) for _ in range(3)]
    until(lambda: sum(map(len, generator.history)) == 3)
    generator.release()
    assert batch[0].result(5).decoded[0].text == "fine alone"
    with pytest.raises(RuntimeError, match="spoilt alone"):
        batch[1].result(5)
    assert batch[2].result(5).decoded[0].text == "fine alone"
    assert [len(requests) for requests in generator.history[-3:]] == [1, 1, 1]
    assert generator.resets == 2
    thread.close()


def test_text_sent_before_a_failure_is_not_sent_again(generator: ScriptedGenerator) -> None:
    thread = ModelThread(generator)
    generator.enqueue("the tower is high", FailsLater())
    pieces: list[str] = []
    both = [thread.submit([REQUEST], lambda _, text: pieces.append(text)), thread.submit([REQUEST])]
    generator.enqueue("the tower is high", "fine")
    wait(both, 5)
    assert "".join(pieces) == "the tower is high"
    thread.close()


def test_answer_that_comes_out_differently_after_a_failure_is_an_error_not_a_mixture(
    generator: ScriptedGenerator,
) -> None:
    thread = ModelThread(generator)
    generator.enqueue("the tower is high", FailsLater())
    pieces: list[str] = []
    both = [thread.submit([REQUEST], lambda _, text: pieces.append(text)), thread.submit([REQUEST])]
    generator.enqueue("another thing", "fine")
    with pytest.raises(GenerationFailed, match="broke off"):
        both[0].result(5)
    assert "another" not in "".join(pieces)
    thread.close()


def test_adapter_that_is_gone_disturbs_nobody_else(generator: ScriptedGenerator) -> None:
    thread = ModelThread(generator)
    generator.hold()
    fine = thread.submit([REQUEST])
    assert generator.started.wait(5)
    generator.refused = "gone@1"
    gone = thread.submit([GenerationRequest((1, 2), "gone@1", Sampling())])
    with pytest.raises(AdapterError, match="gone@1"):
        gone.result(5)
    generator.release()
    assert fine.result(5).decoded[0].text == "scripted answer"
    assert generator.resets == 0
    thread.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_killed_thread_is_not_ready_and_goes_on_after_a_restart(generator: ScriptedGenerator) -> None:
    thread = ModelThread(generator)
    generator.hold()
    future = thread.submit([REQUEST])
    assert generator.started.wait(5)
    generator.enqueue("after the restart")
    generator.blow = SystemExit("killed")
    until(lambda: not thread.ready())
    with pytest.raises(Overloaded, match="started again"):
        thread.submit([REQUEST])
    generator.release()
    thread.revive()
    assert thread.ready()
    assert future.result(5).decoded[0].text == "after the restart"
    thread.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_thread_killed_while_it_reads_prompts_loses_none_of_them(
    generator: ScriptedGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = GenerationRequest((4, 5), "mixed@1", Sampling())
    admit = generator.admit

    def killed_at_the_second_adapter(runs: Sequence[Run]) -> None:
        admit(runs)
        if runs[0].request.adapter is not None:
            monkeypatch.setattr(generator, "admit", admit)
            raise SystemExit("killed")

    monkeypatch.setattr(generator, "admit", killed_at_the_second_adapter)
    monkeypatch.setattr("service.model_thread.BATCH_WINDOW_SECONDS", 0.2)
    thread = ModelThread(generator)
    futures = [thread.submit([request]) for request in (REQUEST, other, REQUEST)]
    until(lambda: not thread.ready())
    thread.revive()
    assert [future.result(5).decoded[0].text for future in futures] == ["scripted answer"] * 3
    thread.close()


def test_one_request_cannot_take_more_than_the_batch(generator: ScriptedGenerator) -> None:
    thread = ModelThread(generator, queue_size=8, batch_tokens=200)
    long = GenerationRequest((1,) * 100, None, Sampling())
    assert thread.submit([long]).result(5)
    with pytest.raises(TooMuchAtOnce, match=r"2 answers .* of up to 132 tokens each, are more than the 200"):
        thread.submit([long, REQUEST])
    with pytest.raises(TooMuchAtOnce, match=r"9 answers are more than the 8 .*queue_size"):
        thread.require_room(9)
    thread.close()


def test_generator_that_cannot_be_reset_is_tried_again_and_leaves_nobody_waiting(
    thread: ModelThread, generator: ScriptedGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.model_thread.RESET_AGAIN_SECONDS", 0.01)
    generator.enqueue(RuntimeError("spoilt"))
    generator.hold()
    asked = [thread.submit([REQUEST])]
    assert generator.started.wait(5)
    asked.append(thread.submit([REQUEST]))  # waits, as one row runs at a time
    generator.broken = ValueError("no memory to reset in")
    generator.release()
    for future in asked:
        with pytest.raises(Overloaded, match="cannot be started again yet"):
            future.result(5)
    assert not thread.ready()
    with pytest.raises(Overloaded, match="started again"):
        thread.submit([REQUEST])
    with pytest.raises(Overloaded, match="started again"):
        thread.call(lambda: None)
    until(lambda: generator.resets > 2)
    generator.broken = None
    until(thread.ready)
    assert thread.submit([REQUEST]).result(5).decoded[0].text == "scripted answer"


def test_service_whose_generator_cannot_be_reset_closes(generator: ScriptedGenerator) -> None:
    thread = ModelThread(generator)
    generator.enqueue(RuntimeError("spoilt"))
    generator.broken = ValueError("no memory to reset in")
    with pytest.raises(Overloaded):
        thread.submit([REQUEST]).result(5)
    closing = threading.Thread(target=thread.close, daemon=True)
    closing.start()
    closing.join(5)
    assert not closing.is_alive()


def test_long_prompts_that_wait_fill_the_queue_too(generator: ScriptedGenerator) -> None:
    thread = ModelThread(generator, queue_tokens=100, batch_tokens=1)
    generator.hold()
    thread.submit([REQUEST])
    assert generator.started.wait(5)
    long = GenerationRequest((1,) * 90, None, Sampling())
    thread.submit([long])
    with pytest.raises(Overloaded, match="prompts of 90 tokens"):
        thread.submit([long])
    generator.release()
    thread.close()


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
