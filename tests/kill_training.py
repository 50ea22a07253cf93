"""Trains a tiny model in child processes that are killed at given places; run by test_tuner_resume.py.

    python kill_training.py FOLDER RUNS

`RUNS` is JSON: names of runs and, for each, the places where it is stopped. A place is [what, n]: the child is killed
(SIGKILL) in its n-th `step`, or in its n-th `save` between two files, or finds the disk full at its n-th `full`. The
last child of each run trains to the end and writes the weights.
Children are forked before any arithmetic has started threads.
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny import tiny_base

import tuner.checkpoint as checkpoint
import tuner.train as training
from tuner.batches import plan_batches
from tuner.checkpoint import CheckpointStore
from tuner.config import TuneConfig
from tuner.examples import Row, RowKind

SETTINGS = TuneConfig(rank=4, learning_rate=1e-2, tokens_per_step=128, dev_checks=3, seed=5)


def rows():
    generator = torch.Generator().manual_seed(1)
    made = []
    for _ in range(80):
        length = int(torch.randint(4, 30, (1,), generator=generator))
        ids = torch.randint(4, 200, (length,), generator=generator).tolist()
        made.append(Row(RowKind.DOCUMENT, tuple(ids[:2]), tuple(ids[2:])))
    return made


def after(count, function, stop):
    """`function`, which at its `count`-th call is cut short by `stop`."""
    calls = 0

    def counted(*arguments):
        nonlocal calls
        calls += 1
        if calls == count:
            stop(*arguments)
        return function(*arguments)

    return counted


def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def save_half(tensors, path):
    save_file(dict(list(tensors.items())[:1]), path)
    kill()


def fill_disk(*_):
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def train(folder, what, count):
    if what == "step":
        training.batch_loss = after(count, training.batch_loss, kill)
    elif what == "save":
        checkpoint.save_file = after(count, checkpoint.save_file, save_half)
    elif what == "full":
        checkpoint.save_file = after(count, checkpoint.save_file, fill_disk)
    training._SECONDS_BETWEEN_CHECKPOINTS = -1.0
    store = CheckpointStore(folder / "checkpoint")
    plan = plan_batches(rows(), SETTINGS)
    scores = iter([0.1, 0.2, 0.3][len(started(store)) :])
    trained = training.train(tiny_base(), plan, SETTINGS, lambda _: {"score": next(scores)}, store)
    save_file(trained.weights, folder / "weights.safetensors")


def started(store):
    """The dev checks of the checkpoint that will be continued."""
    state = store.folder / "state.json"
    if not state.is_file():
        state = store.folder.with_name(f".{store.folder.name}.old") / "state.json"
    return json.loads(state.read_text())["history"] if state.is_file() else []


def main():
    for name, places in json.loads(sys.argv[2]).items():
        folder = Path(sys.argv[1]) / name
        folder.mkdir()
        ended = [run(folder, what, count) for what, count in [*places, ["end", 0]]]
        (folder / "ended.json").write_text(json.dumps(ended))


def run(folder, what, count):
    """How a child ended that trained until the place given."""
    child = os.fork()
    if child == 0:
        try:
            train(folder, what, count)
        except OSError as error:
            (folder / "error.txt").write_text(str(error))
            os._exit(1)
        except BaseException as error:
            (folder / "error.txt").write_text(repr(error))
            os._exit(2)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return [what, os.waitstatus_to_exitcode(status)]


main()
