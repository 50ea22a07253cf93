from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from service.jobs import Command, Job, JobKind, Jobs, JobsElsewhere, JobState, UnknownJob

TALKS = """
import sys
print("evaluating: 3/7, about 2 s left", file=sys.stderr)
print('{"score": 1}')
"""
FAILS = """
import sys
print("Traceback", file=sys.stderr)
print("openbook: questions.jsonl: no such file; set [eval] questions", file=sys.stderr)
sys.exit(2)
"""
GOES_ON = """
# Counts how often it was begun; the first time it waits to be killed.
import pathlib, sys, time
marks = pathlib.Path(sys.argv[1])
with marks.open("a") as file:
    file.write("x")
while marks.read_text() == "x":
    time.sleep(0.02)
print('{"begun": %d}' % len(marks.read_text()))
"""

GOES_ASTRAY = """
# Reports progress in numbers that no table holds, and goes on; told nothing, it ends in good order.
import os, pathlib, sys, time
marks = pathlib.Path(sys.argv[1])
if marks.read_text():
    marks.write_text(str(os.getpid()))
    print(f"evaluating: 1/{10**30}", file=sys.stderr, flush=True)
    time.sleep(600)
print("{}")
"""


def commands(*arguments: str) -> dict[JobKind, Command]:
    return dict.fromkeys(JobKind, Command([sys.executable, "-c", *arguments], json.loads))


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Jobs]]:
    everything: list[Jobs] = []

    def open_jobs(*arguments: str, name: str = "jobs.sqlite") -> Jobs:
        jobs = Jobs(tmp_path / name, commands(*arguments))
        everything.append(jobs)
        jobs.start()
        return jobs

    yield open_jobs
    for jobs in everything:
        jobs.close()


def until(jobs: Jobs, job_id: str, *states: JobState) -> Job:
    deadline = time.monotonic() + 60
    while (job := jobs.get(job_id)).state not in states:
        assert time.monotonic() < deadline, job
        time.sleep(0.02)
    return job


def until_there(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_finished_job_tells_its_progress_and_result(opened: Callable[..., Jobs]) -> None:
    jobs = opened(TALKS)
    job = until(jobs, jobs.submit(JobKind.EVALUATION).id, JobState.DONE, JobState.FAILED)
    assert (job.state, job.result, job.error) == (JobState.DONE, {"score": 1}, None)
    assert (job.step, job.done, job.total) == ("evaluating", 3, 7)


def test_failed_job_tells_why_in_one_line(opened: Callable[..., Jobs]) -> None:
    jobs = opened(FAILS)
    job = until(jobs, jobs.submit(JobKind.EVALUATION).id, JobState.DONE, JobState.FAILED)
    assert (job.state, job.error) == (
        JobState.FAILED,
        "questions.jsonl: no such file; set [eval] questions",
    )


def test_job_whose_output_cannot_be_used_fails_and_the_next_one_runs(opened: Callable[..., Jobs]) -> None:
    jobs = opened("print('no JSON')")
    for _ in range(2):
        job = until(jobs, jobs.submit(JobKind.SYNC).id, JobState.DONE, JobState.FAILED)
        assert (job.state, job.error) == (JobState.FAILED, "could not be run (JSONDecodeError)")


def test_waiting_job_is_not_queued_twice_and_jobs_run_one_at_a_time(
    opened: Callable[..., Jobs], tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    jobs = opened(GOES_ON, str(marks))
    running = jobs.submit(JobKind.EVALUATION)
    until_there(marks)
    assert jobs.submit(JobKind.EVALUATION).id == running.id
    waiting = jobs.submit(JobKind.SYNC)
    assert jobs.submit(JobKind.SYNC).id == waiting.id
    assert jobs.get(waiting.id).state is JobState.QUEUED
    marks.write_text("xx")
    assert until(jobs, waiting.id, JobState.DONE, JobState.FAILED).state is JobState.DONE
    assert [job.id for job in jobs.list()] == [waiting.id, running.id]


def test_cancelled_jobs_stop_or_never_begin(opened: Callable[..., Jobs], tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    jobs = opened(GOES_ON, str(marks))
    running, waiting = jobs.submit(JobKind.EVALUATION), jobs.submit(JobKind.SYNC)
    until_there(marks)
    assert jobs.cancel(waiting.id).state is JobState.CANCELLED
    assert jobs.cancel(running.id).state is JobState.CANCELLED
    marks.unlink()
    after = jobs.submit(JobKind.SYNC)
    until_there(marks)
    marks.write_text("xx")
    until(jobs, after.id, JobState.DONE)
    assert {jobs.get(job.id).state for job in (running, waiting)} == {JobState.CANCELLED}
    assert jobs.cancel(after.id).state is JobState.DONE


def test_job_under_way_goes_on_after_an_orderly_restart(opened: Callable[..., Jobs], tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    first = opened(GOES_ON, str(marks))
    job = first.submit(JobKind.EVALUATION)
    until_there(marks)
    first.close()
    again = opened(GOES_ON, str(marks))
    assert until(again, job.id, JobState.DONE, JobState.FAILED).result == {"begun": 2}


def test_job_goes_on_after_the_service_was_killed_and_its_orphan_is_ended(
    opened: Callable[..., Jobs], tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    service = textwrap.dedent(
        """
        import json, pathlib, sys, time
        from service.jobs import Command, JobKind, Jobs
        command = Command([sys.executable, "-c", sys.argv[2], sys.argv[3]], json.loads)
        jobs = Jobs(pathlib.Path(sys.argv[1]), {JobKind.EVALUATION: command})
        jobs.start()
        print(jobs.submit(JobKind.EVALUATION).id, flush=True)
        time.sleep(600)
        """
    )
    arguments: Sequence[str] = (str(tmp_path / "jobs.sqlite"), GOES_ON, str(marks))
    with subprocess.Popen(
        [sys.executable, "-c", service, *arguments], stdout=subprocess.PIPE, text=True
    ) as killed:
        assert killed.stdout is not None
        job_id = killed.stdout.readline().strip()
        until_there(marks)
        [orphan] = psutil.Process(killed.pid).children()
        until_noted = Jobs(tmp_path / "jobs.sqlite", {})
        until(until_noted, job_id, JobState.RUNNING)
        until_noted.close()
        os.kill(killed.pid, signal.SIGKILL)
    assert orphan.is_running()
    jobs = opened(GOES_ON, str(marks))
    assert until(jobs, job_id, JobState.DONE, JobState.FAILED).result == {"begun": 2}
    assert not orphan.is_running()


def test_second_service_of_a_workspace_takes_no_jobs(opened: Callable[..., Jobs]) -> None:
    first, second = opened(TALKS), opened(TALKS)
    with pytest.raises(JobsElsewhere, match="ask that one"):
        second.submit(JobKind.SYNC)
    job = first.submit(JobKind.SYNC)
    assert until(second, job.id, JobState.DONE).result == {"score": 1}


def test_unknown_job_is_named(opened: Callable[..., Jobs]) -> None:
    with pytest.raises(UnknownJob, match="no job 'nope'"):
        opened(TALKS).get("nope")


def test_process_of_a_job_that_cannot_be_followed_is_ended_and_the_next_one_runs(
    opened: Callable[..., Jobs], tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    marks.write_text("x")
    jobs = opened(GOES_ASTRAY, str(marks))
    job = until(jobs, jobs.submit(JobKind.SYNC).id, JobState.DONE, JobState.FAILED)
    assert (job.state, job.error) == (JobState.FAILED, "could not be run (OverflowError)")
    assert not psutil.pid_exists(int(marks.read_text()))
    marks.write_text("")
    job = until(jobs, jobs.submit(JobKind.SYNC).id, JobState.DONE, JobState.FAILED)
    assert job.state is JobState.DONE


def test_job_is_never_less_nice_than_its_service() -> None:
    program = """
import os, sys
print(os.nice(15), flush=True)
from service.job_process import JobProcess
process = JobProcess([sys.executable, "-c", "import os; print(os.nice(0))"], sys.stdout)
assert not [*process.progress()]
print(process.status())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    service, job, status = done.stdout.split()
    assert (job, status) == (service, "0")


def test_job_whose_priority_cannot_be_lowered_is_followed_all_the_same(
    opened: Callable[..., Jobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_process: psutil.Process, _value: int | None = None) -> int:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil.Process, "nice", refuse)
    jobs = opened(TALKS)
    job = until(jobs, jobs.submit(JobKind.SYNC).id, JobState.DONE, JobState.FAILED)
    assert (job.state, job.result) == (JobState.DONE, {"score": 1})


def test_closing_ends_a_worker_that_is_about_to_wait(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path / "jobs.sqlite", {})

    class Late(threading.Event):
        """By the time that it is cleared, the service is being closed."""

        def clear(self) -> None:
            jobs._closing.set()
            self.set()
            super().clear()

    jobs._wake = Late()
    jobs.start()
    assert jobs._thread is not None
    jobs._thread.join(5)
    assert not jobs._thread.is_alive()
    jobs.close()
