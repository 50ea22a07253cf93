import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fakes import HashEncoder
from safetensors.torch import load_file
from test_tuner_train import SETTINGS, Improving, rows
from tiny import tiny_base

from indexer.config import Workspace
from indexer.sync import sync
from tuner.batches import plan_batches
from tuner.checkpoint import CheckpointStore
from tuner.parallel import ALONE, Group, ParallelError, require_one_process
from tuner.registry import Registry
from tuner.train import train

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes under torchrun have left behind (see parallel_training.py)."""
    folder = tmp_path_factory.mktemp("parallel")
    base = tiny_base()
    base.model.save_pretrained(folder / "model")
    base.tokenizer.save_pretrained(folder / "model")
    (folder / "documents").mkdir()
    (folder / "documents" / "wren.md").write_text("# Wren\n\nThe Wren weighs 600 g.\n")
    (folder / "documents" / "heron.md").write_text("# Heron\n\nStroud drew the Heron in Harl.\n")
    sync(Workspace(folder), folder / "documents", HashEncoder(), 32)
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(TESTS / "parallel_training.py"), str(folder)]
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, timeout=240, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return folder


def weights(folder, rank, run):
    tensors = load_file(folder / f"{rank}.safetensors")
    return {name.removeprefix(f"{run}."): t for name, t in tensors.items() if name.startswith(f"{run}.")}


def found(folder, rank):
    return json.loads((folder / f"{rank}.json").read_text())


def test_two_processes_train_the_weights_that_one_would(folder, tmp_path):
    plan = plan_batches(rows() * 4, SETTINGS)
    alone = train(tiny_base(), plan, SETTINGS, Improving(), CheckpointStore(tmp_path / "c"))
    together = weights(folder, 0, "whole")
    assert together.keys() == alone.weights.keys()
    for name, tensor in alone.weights.items():
        torch.testing.assert_close(together[name], tensor, rtol=1e-3, atol=1e-4)
    assert found(folder, 0)["losses"] == pytest.approx([h.loss for h in alone.history], rel=1e-4)
    assert found(folder, 0)["tokens"] == alone.tokens


@pytest.mark.parametrize("run", ["whole", "part"])
def test_all_processes_hold_the_very_same_weights(folder, run):
    first, second = weights(folder, 0, run), weights(folder, 1, run)
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_an_interrupt_of_one_process_stops_all_and_they_go_on_to_the_very_same_weights(folder):
    assert found(folder, 0)["raised"] == found(folder, 1)["raised"] == ["KeyboardInterrupt"]
    whole = weights(folder, 0, "whole")
    assert all(torch.equal(tensor, whole[name]) for name, tensor in weights(folder, 0, "part").items())


def test_the_first_process_alone_writes_checkpoints_registers_and_measures(folder):
    assert (folder / "checkpoint-0").is_dir()
    assert not (folder / "checkpoint-1").exists()
    registry = Registry(Workspace(folder).adapters)
    assert (registry.versions("mixed"), registry.promoted("mixed")) == ([1], 1)
    assert found(folder, 0)["measured"] == ["mixed@1"]
    assert found(folder, 1)["measured"] == []


def test_dev_questions_are_shared_and_their_scores_weighted(folder):
    assert found(folder, 0)["dev"] == found(folder, 1)["dev"] == pytest.approx(1 / 3)


def test_shares_are_the_whole_whatever_the_number_of_processes():
    for size in (1, 2, 5):
        shares = [Group(rank, size).share("abc") for rank in range(size)]
        assert sorted(item for share in shares for item in share) == ["a", "b", "c"]
    assert ALONE.share("abc") == ["a", "b", "c"]


def test_plans_and_searches_under_torchrun_are_refused(monkeypatch):
    require_one_process("a search")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ParallelError, match="a search works in one process, and torchrun has started 2"):
        require_one_process("a search")
