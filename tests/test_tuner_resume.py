import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

TESTS = Path(__file__).parent
RANDOMNESS = random.Random(7)
RUNS = {
    "whole": [],
    "killed": [(RANDOMNESS.choice(["step", "step", "save"]), RANDOMNESS.randint(1, 3)) for _ in range(10)],
    "full": [("full", 4)],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder for each run, with its weights and how its processes ended."""
    root = tmp_path_factory.mktemp("runs")
    subprocess.run(
        [sys.executable, "-W", "ignore", TESTS / "kill_training.py", root, json.dumps(RUNS)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
            "OMP_NUM_THREADS": "1",
        },
        check=True,
        timeout=240,
    )
    return root


def same_weights(runs, name):
    ours, whole = (load_file(runs / run / "weights.safetensors") for run in (name, "whole"))
    return ours.keys() == whole.keys() and all(tensor.equal(whole[key]) for key, tensor in ours.items())


def ended(runs, name):
    return json.loads((runs / name / "ended.json").read_text())


def test_training_killed_at_ten_random_places_ends_with_the_very_same_weights(runs):
    assert ended(runs, "killed") == [*([what, -9] for what, _ in RUNS["killed"]), ["end", 0]]
    assert same_weights(runs, "killed")


def test_a_full_disk_leaves_the_last_checkpoint_and_training_goes_on_from_it(runs):
    assert ended(runs, "full") == [["full", 1], ["end", 0]]
    assert (runs / "full" / "error.txt").read_text().startswith("cannot write a checkpoint to")
    assert same_weights(runs, "full")
