import os
import signal

import pytest
import torch
from pydantic import ValidationError
from test_tuner_train import SETTINGS, Improving, rows, same
from tiny import tiny_base

import tuner.train as training
from tuner.batches import plan_batches
from tuner.checkpoint import CheckpointStore
from tuner.config import Method, TuneConfig
from tuner.lora import dropping_out
from tuner.methods import attach
from tuner.train import train

IDS = torch.tensor([[5, 6, 7, 8]])


def dropped(method):
    base = tiny_base()
    settings = SETTINGS.model_copy(update={"dropout": 0.5, "method": method})
    attach(base.model, settings)
    for name, parameter in base.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return base.model


@pytest.mark.parametrize("method", [Method.LORA, Method.DORA, Method.RSLORA])
def test_dropout_is_drawn_by_seed_and_only_in_training(method):
    model = dropped(method)
    plain = model(IDS).logits
    drawn = []
    for seed in (1, 1, 2):
        with dropping_out(model, seed):
            drawn.append(model(IDS).logits)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], plain)
    assert torch.equal(model(IDS).logits, plain)


def test_drawing_leaves_other_random_numbers_alone():
    model = dropped(Method.LORA)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with dropping_out(model, 1):
        model(IDS)
    assert torch.equal(torch.rand(2), expected)


def test_interrupted_training_with_dropout_and_recomputed_blocks_goes_on_to_the_very_same_weights(
    tmp_path, monkeypatch
):
    settings = SETTINGS.model_copy(update={"dropout": 0.2, "gradient_checkpointing": True})
    plan = plan_batches(rows() * 2, settings)
    whole = train(tiny_base(), plan, settings, Improving(), CheckpointStore(tmp_path / "whole"))
    real, calls = training.batch_loss, 0

    def interrupting(*arguments):
        nonlocal calls
        calls += 1
        if calls == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(training, "batch_loss", interrupting)
    store, dev = CheckpointStore(tmp_path / "part"), Improving()
    with pytest.raises(KeyboardInterrupt):
        train(tiny_base(), plan, settings, dev, store)
    resumed = train(tiny_base(), plan, settings, dev, store)
    assert same(resumed.weights, whole.weights)
    without = settings.model_copy(update={"dropout": 0.0})
    assert not same(
        train(tiny_base(), plan, without, Improving(), CheckpointStore(tmp_path / "w")).weights, whole.weights
    )


@pytest.mark.parametrize("method", ["pissa", "ia3", "full"])
def test_dropout_where_there_is_none_is_refused(method):
    with pytest.raises(
        ValidationError, match=f'dropout = 0.1 is for lora, dora and rslora, not for "{method}"'
    ):
        TuneConfig(method=method, dropout=0.1)
