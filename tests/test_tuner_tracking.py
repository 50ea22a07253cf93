import sys
from types import SimpleNamespace

import pytest
from test_tuner_train import SETTINGS, Improving, rows
from tiny import tiny_base

from tuner.batches import plan_batches
from tuner.checkpoint import CheckpointStore
from tuner.config import SynthesisConfig, Tracker
from tuner.tracking import TrackerError
from tuner.train import train


class FakeTracker:
    """Stands for trackio, wandb and mlflow alike; keeps what it is told."""

    def __init__(self):
        self.opened, self.shown, self.logged, self.finished = {}, {}, [], 0

    def init(self, **given):
        self.opened, self.shown = given, given["config"]
        return self

    def log(self, figures, step):
        self.logged.append((step, figures))

    def finish(self):
        self.finished += 1

    def Settings(self, **given):  # noqa: N802
        return SimpleNamespace(**given)

    def set_experiment(self, name):
        self.opened["project"] = name

    def start_run(self, run_name):
        self.opened["name"] = run_name
        return self

    def log_params(self, shown):
        self.shown = shown

    def log_metrics(self, figures, step):
        self.log(figures, step)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.finish()


def run(tmp_path, track=Tracker.NONE):
    synthesis = SynthesisConfig(url="http://secret.example/v1", model="m")
    settings = SETTINGS.model_copy(update={"synthesis": synthesis, "track": track})
    plan = plan_batches(rows(), settings)
    return train(tiny_base(), plan, settings, Improving(), CheckpointStore(tmp_path / "c"))


@pytest.mark.parametrize("tracker", ["trackio", "wandb", "mlflow"])
def test_a_tracker_is_shown_figures_and_no_text(tmp_path, monkeypatch, tracker):
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


def test_the_tracker_does_not_make_it_another_run(tmp_path, monkeypatch):
    run(tmp_path)
    fake = FakeTracker()
    monkeypatch.setitem(sys.modules, "trackio", fake)
    run(tmp_path, Tracker.TRACKIO)
    assert fake.logged == []
