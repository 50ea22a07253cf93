import json
import logging
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_tuner_train import SETTINGS, Improving, rows
from tiny import tiny_base

from tuner.batches import plan_batches
from tuner.checkpoint import CheckpointStore
from tuner.config import SynthesisConfig, Tracker
from tuner.tracking import TrackerError, require_tracker
from tuner.train import train

TESTS = Path(__file__).parent


class FakeTracker:
    """Stands for trackio, wandb and mlflow alike; keeps what it is told."""

    def __init__(self):
        self.opened, self.shown, self.logged, self.finished = {}, {}, [], 0
        self.found = []

    def init(self, **given):
        print("a tracker likes to talk")
        self.opened, self.shown = given, given["config"]
        return self

    def log(self, figures, step):
        self.logged.append((step, figures))

    def finish(self, exit_code=0):
        self.finished += 1

    def Settings(self, **given):  # noqa: N802
        return SimpleNamespace(**given)

    def set_experiment(self, name):
        self.opened["project"] = name
        return SimpleNamespace(experiment_id="1")

    def search_runs(self, *_, **__):
        return self.found

    def start_run(self, run_name, tags):
        self.opened["name"] = run_name

    def log_params(self, shown):
        self.shown = shown

    def log_metrics(self, figures, step):
        self.log(figures, step)

    def end_run(self, status):
        self.finish()


def run(tmp_path, track=Tracker.NONE):
    synthesis = SynthesisConfig(url="http://secret.example/v1", model="m")
    settings = SETTINGS.model_copy(update={"synthesis": synthesis, "track": track})
    plan = plan_batches(rows(), settings)
    return train(tiny_base(), plan, settings, Improving(), CheckpointStore(tmp_path / "c"))


@pytest.mark.parametrize("tracker", ["trackio", "wandb", "mlflow"])
def test_a_tracker_is_shown_figures_and_no_text(tmp_path, monkeypatch, capsys, tracker):
    fake = FakeTracker()
    monkeypatch.setitem(sys.modules, tracker, fake)
    trained = run(tmp_path, Tracker(tracker))
    assert fake.opened["project"] == "openbook"
    assert fake.opened["name"].startswith("mixed-")
    losses = [(step, figures["loss"]) for step, figures in fake.logged if "loss" in figures]
    assert [step for step, _ in losses] == list(range(1, trained.steps + 1))
    assert all(figures["learning_rate"] > 0 for _, figures in fake.logged if "loss" in figures)
    scores = [figures["dev_score"] for _, figures in fake.logged if "dev_score" in figures]
    assert scores == [h.scores["score"] for h in trained.history]
    assert all(isinstance(value, float) for _, figures in fake.logged for value in figures.values())
    assert fake.shown["rank"] == SETTINGS.rank
    assert "secret" not in repr(fake.shown)
    assert fake.finished == 1
    assert capsys.readouterr().out == ""


def test_a_tracker_is_left_in_order_when_training_fails(tmp_path, monkeypatch):
    fake = FakeTracker()
    monkeypatch.setitem(sys.modules, "trackio", fake)
    monkeypatch.setattr("tuner.train.batch_loss", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, Tracker.TRACKIO)
    assert fake.finished == 1


def test_a_tracker_that_is_not_installed_is_named_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(TrackerError, match=r"wandb.*pip install wandb"):
        run(tmp_path, Tracker.WANDB)


def test_a_tracker_that_opens_no_run_ends_it_in_one_line(tmp_path, monkeypatch):
    class Unreachable(FakeTracker):
        def init(self, **given):
            raise OSError("no key\nconfigured")

    monkeypatch.setitem(sys.modules, "wandb", Unreachable())
    with pytest.raises(TrackerError, match=r'"wandb": no run can be opened \(OSError: no key configured\)'):
        run(tmp_path, Tracker.WANDB)


def test_an_mlflow_run_that_is_refused_its_settings_is_ended(tmp_path, monkeypatch):
    class Refusing(FakeTracker):
        def log_params(self, shown):
            raise OSError("read-only")

    fake = Refusing()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    with pytest.raises(TrackerError, match=r"no run can be opened \(OSError: read-only\)"):
        run(tmp_path, Tracker.MLFLOW)
    assert fake.finished == 1


def test_only_the_process_that_tracks_needs_the_tracker(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setenv("RANK", "1")
    require_tracker(SETTINGS.model_copy(update={"track": Tracker.WANDB}))
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(TrackerError, match="pip install wandb"):
        require_tracker(SETTINGS.model_copy(update={"track": Tracker.WANDB}))


@pytest.mark.parametrize("fails", ["log", "finish"])
def test_training_goes_on_without_a_tracker_that_fails(tmp_path, monkeypatch, caplog, fails):
    calls = []

    def fail(*_, **__):
        calls.append(fails)
        raise OSError("out of reach")

    fake = FakeTracker()
    monkeypatch.setattr(fake, fails, fail)
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    with caplog.at_level(logging.WARNING, "openbook.tuner"):
        trained = run(tmp_path, Tracker.MLFLOW)
    assert trained.steps > 1
    assert len(calls) == 1
    assert "mlflow failed (OSError: out of reach); training goes on without it" in caplog.text


def test_mlflow_does_not_report_its_use_unless_that_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", FakeTracker())
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    run(tmp_path / "default", Tracker.MLFLOW)
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    run(tmp_path / "asked", Tracker.MLFLOW)
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "false"


def test_the_tracker_does_not_make_it_another_run(tmp_path, monkeypatch):
    run(tmp_path)
    fake = FakeTracker()
    monkeypatch.setitem(sys.modules, "trackio", fake)
    run(tmp_path, Tracker.TRACKIO)
    assert fake.logged == []


@pytest.fixture(scope="module", params=["trackio", "wandb", "mlflow"])
def kept(request, tmp_path_factory):
    """What the real package has kept of two runs, the first of which Ctrl-C stopped once (see tracked_training.py)."""
    if find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    folder = tmp_path_factory.mktemp(request.param)
    own = {
        "TRACKIO_DIR": str(folder / "kept"),
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(folder / "kept"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'kept' / 'mlflow.db'}",
        "HF_HOME": str(folder / "hub"),
    }
    (folder / "kept").mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", TESTS / "tracked_training.py", request.param, folder],
        env={**environment, **own, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
        cwd=folder,
        timeout=280,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return SimpleNamespace(
        folder=folder, stdout=done.stdout, **json.loads((folder / "kept.json").read_text())
    )


def test_the_real_tracker_keeps_every_figure_of_a_run_stopped_by_ctrl_c_as_one_run(kept):
    assert kept.raised == ["KeyboardInterrupt"]
    stopped, fresh = kept.runs.values()
    assert stopped["figures"] == fresh["figures"] == kept.told
    assert {name.partition("-")[0] for name in kept.runs} == {"mixed"}


def test_the_real_tracker_is_shown_settings_but_no_text_path_or_command(kept):
    for run in kept.runs.values():
        assert int(run["shown"]["rank"]) == SETTINGS.rank
        assert run["shown"]["method"] == "lora"
    written = b"".join(path.read_bytes() for path in (kept.folder / "kept").rglob("*") if path.is_file())
    assert b"learning_rate" in written
    assert b"secret.example" not in written
    assert b"tracked_training" not in written


def test_the_real_tracker_reaches_for_no_network_and_leaves_the_output_alone(kept):
    assert kept.addresses == []
    assert kept.stdout == ""
