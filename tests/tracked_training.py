"""Trains a tiny model with a real experiment tracker; run by test_tuner_tracking.py.

    python tracked_training.py TRACKER FOLDER

Two runs of the same settings, the first stopped by Ctrl-C and continued. Writes FOLDER/kept.json: what training said,
what the tracker has kept when its own package reads it again, and the internet addresses that were reached for.
"""

import json
import os
import signal
import struct
import sys
from pathlib import Path

from test_tuner_train import SETTINGS, Improving, rows
from tiny import tiny_base

import tuner.train as training
from tuner.batches import plan_batches
from tuner.checkpoint import CheckpointStore
from tuner.config import SynthesisConfig
from tuner.tracking import tracking


def train(settings, folder, interrupt_at=None):
    """Train and tell the tracker; one that Ctrl-C stopped goes on. The figures told, and what was raised."""
    told, raised, calls, real = [], [], 0, training.batch_loss

    def interrupting(*arguments):
        nonlocal calls
        calls += 1
        if calls == interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments)

    plan = plan_batches(rows() * 4, settings)
    dev = Improving()
    training.batch_loss = interrupting
    training.tracking = lambda *arguments: overheard(tracking(*arguments), told)
    for _ in range(2 if interrupt_at else 1):
        try:
            training.train(tiny_base(), plan, settings, dev, CheckpointStore(folder))
        except KeyboardInterrupt:
            raised.append("KeyboardInterrupt")
    training.batch_loss = real
    return told, raised


class overheard:  # noqa: N801
    """A tracker, and a list of what it is told."""

    def __init__(self, tracker, told):
        self.tracker, self.told = tracker, told

    def __enter__(self):
        log = self.tracker.__enter__()

        def tell(step, figures):
            self.told.append((step, dict(figures)))
            log(step, figures)

        return tell

    def __exit__(self, *raised):
        return self.tracker.__exit__(*raised)


def by_metric(told):
    """`{metric: [[step, value], ...]}` in the order of steps."""
    found = {}
    for step, figures in told:
        for metric, value in figures.items():
            found.setdefault(metric, []).append([step, value])
    return {metric: sorted(points) for metric, points in sorted(found.items())}


def trackio_runs(_folder):
    from trackio import Api
    from trackio.sqlite_storage import SQLiteStorage

    runs = {}
    for run in Api().runs("openbook"):
        told = [
            (line["step"], {k: v for k, v in line.items() if k not in ("step", "timestamp")})
            for line in SQLiteStorage.get_logs("openbook", run.name)
        ]
        runs[run.name] = {"shown": run.config, "figures": by_metric(told)}
    return runs


def wandb_runs(folder):
    """From the files of a run that is offline: wandb's own messages in a LevelDB log. A run may have several files."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # which ends the process that writes the files
    runs = {}
    for file in sorted((folder / "kept").glob("wandb/offline-run-*/run-*.wandb")):
        for message in leveldb_log(file.read_bytes()):
            record = Record.FromString(message)
            if record.HasField("run"):
                shown = {item.key: json.loads(item.value_json) for item in record.run.config.update}
                run = runs.setdefault(record.run.run_id, {"shown": shown, "told": []})
            if record.HasField("history"):
                items = {
                    item.key or item.nested_key[0]: json.loads(item.value_json)
                    for item in record.history.item
                }
                figures = {key: value for key, value in items.items() if not key.startswith("_")}
                run["told"].append((record.history.step.num, figures))
    return {name: {"shown": run["shown"], "figures": by_metric(run["told"])} for name, run in runs.items()}


def leveldb_log(log):
    """The records of a LevelDB log, which come in fragments within blocks of 32 KiB, after wandb's own 7 bytes."""
    at, whole = 7, b""
    while at < len(log):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", log[at + 4 : at + 7])
        whole += log[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, last
            yield whole
            whole = b""


def mlflow_runs(_folder):
    import mlflow

    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("openbook").experiment_id
    runs = {}
    for run in reversed(client.search_runs([experiment])):
        figures = {
            metric: sorted(
                [point.step, point.value] for point in client.get_metric_history(run.info.run_id, metric)
            )
            for metric in sorted(run.data.metrics)
        }
        runs[run.info.run_name] = {"shown": run.data.params, "figures": figures}
    return runs


def main():
    tracker, folder = sys.argv[1], Path(sys.argv[2])
    addresses = []

    def notice(event, arguments):
        if event == "socket.getaddrinfo":
            addresses.append(str(arguments[0]))
        if event == "socket.connect" and isinstance(arguments[1], tuple):
            addresses.append(str(arguments[1][0]))

    sys.addaudithook(notice)
    synthesis = SynthesisConfig(url="http://secret.example/v1", model="m")
    settings = SETTINGS.model_copy(update={"track": tracker, "synthesis": synthesis})
    told, raised = train(settings, folder / "stopped", interrupt_at=3)
    train(settings, folder / "fresh")
    runs = {"trackio": trackio_runs, "wandb": wandb_runs, "mlflow": mlflow_runs}[tracker](folder)
    kept = {"told": by_metric(told), "raised": raised, "runs": runs, "addresses": addresses}
    (folder / "kept.json").write_text(json.dumps(kept))


if __name__ == "__main__":
    main()
