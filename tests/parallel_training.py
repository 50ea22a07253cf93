"""Trains a tiny model in several processes; run under torchrun by test_tuner_parallel.py.

    python -m torch.distributed.run --nproc-per-node 2 parallel_training.py FOLDER

FOLDER holds a workspace with documents and a model in `model`. Every process writes what it came to as RANK.safetensors
and RANK.json.
"""

import json
import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path

from fakes import HashEncoder
from safetensors.torch import save_file
from test_tuner_commands import QUESTIONS
from test_tuner_commands import SETTINGS as COMMAND_SETTINGS
from test_tuner_train import SETTINGS, Improving, rows
from tiny import tiny_base

import tuner.train as training
from indexer.config import ModelConfig, Workspace
from indexer.retriever import Index
from tuner import commands
from tuner.batches import plan_batches
from tuner.checkpoint import CheckpointStore
from tuner.dev import DevScorer, Metric
from tuner.gates import Comparison, Measure, Measured
from tuner.parallel import training_group


def train_twice(folder, plan, group):
    """Weights of a run that Ctrl-C reached in the last process only, and that then went on; what each call raised."""
    store, dev, real, raised, calls = (
        CheckpointStore(folder / "part"),
        Improving(),
        training.batch_loss,
        [],
        0,
    )

    def interrupting(*arguments):
        nonlocal calls
        calls += 1
        if calls == 3 and group.rank == group.size - 1:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments)

    training.batch_loss = interrupting
    for _ in range(2):
        try:
            trained = training.train(tiny_base(), plan, SETTINGS, dev, store, group)
        except KeyboardInterrupt:
            raised.append("KeyboardInterrupt")
    training.batch_loss = real
    return trained, raised


def dev_score(group):
    """Of three questions that two processes share unevenly: only the first is answered well."""

    def mean(answers, questions):
        assert len(answers) == len(questions)
        return sum(q.id == "q1" for q in questions) / len(questions)

    asked = [q for q in QUESTIONS if q.answerable]
    scorer = DevScorer(tiny_base().tokenizer, asked, lambda *_: [], (0,), Metric("f1", mean), group)
    return scorer(tiny_base().model)["score"]


def tune(folder, group):
    """`openbook tune`; how often this process measured the adapter."""
    measured = []

    def measure(key):
        measured.append(key)
        return Measured([Comparison("tuned", "base", (0.9,), (0.1,), must_win=True)])

    commands.training_group = lambda: nullcontext(group)
    workspace, model = Workspace(folder), ModelConfig(base=str(folder / "model"), dtype="float32")
    retriever = Index.open(workspace, HashEncoder()).retriever()
    metric, gate = Metric("f1", lambda *_: 0.5), Measure(measure, "")
    commands.tune(workspace, model, COMMAND_SETTINGS, QUESTIONS, retriever, metric, gate, False, as_json=True)
    return measured


def main():
    folder = Path(sys.argv[1])
    with training_group() as group:
        plan = plan_batches(rows() * 4, SETTINGS)
        store = CheckpointStore(folder / f"checkpoint-{group.rank}")
        whole = training.train(tiny_base(), plan, SETTINGS, Improving(), store, group)
        part, raised = train_twice(folder, plan, group)
        found = {
            "raised": raised,
            "losses": [h.loss for h in whole.history],
            "tokens": whole.tokens,
            "dev": dev_score(group),
            "measured": tune(folder, group),
        }
        tensors = {f"whole.{k}": t for k, t in whole.weights.items()}
        tensors |= {f"part.{k}": t for k, t in part.weights.items()}
        save_file(tensors, folder / f"{group.rank}.safetensors")
        (folder / f"{group.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
