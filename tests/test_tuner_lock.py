import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tuner.lock import TuneBusy, tune_lock

HOLDER = """
import sys, time
from pathlib import Path
from tuner.lock import tune_lock
with tune_lock(Path(sys.argv[1]), "mixed"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_run_of_the_same_adapter_is_refused_and_names_the_first(tmp_path, holder):
    with (
        pytest.raises(TuneBusy, match=f"process {holder.pid} is training adapter 'mixed'"),
        tune_lock(tmp_path, "mixed"),
    ):
        pass


def test_another_adapter_may_be_trained_meanwhile(tmp_path, holder):
    with tune_lock(tmp_path, "reader"):
        pass


def test_the_lock_of_a_killed_run_is_taken_over(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with tune_lock(tmp_path, "mixed"):
        assert (tmp_path / "tune-mixed.lock").read_text() == str(os.getpid())
