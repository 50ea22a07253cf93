import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from tiny import tiny_base
from transformers import LlamaForCausalLM

import tuner.train as training
from tuner.batches import plan_batches
from tuner.checkpoint import CheckpointStore
from tuner.config import TuneConfig
from tuner.examples import Row, RowKind
from tuner.fast_lora import fast_lora
from tuner.lora import ADAPTER
from tuner.loss import batch_loss, frozen_head_loss
from tuner.methods import attach
from tuner.train import TrainingDivergedError, train

SETTINGS = TuneConfig(rank=4, learning_rate=1e-2, tokens_per_step=256, dev_checks=2, seed=5)


def rows(count=24):
    generator = torch.Generator().manual_seed(1)
    made = []
    for _ in range(count):
        length = int(torch.randint(4, 30, (1,), generator=generator))
        ids = torch.randint(4, 200, (length,), generator=generator).tolist()
        made.append(Row(RowKind.DOCUMENT, tuple(ids[:2]), tuple(ids[2:])))
    return made


def reference_loss(model, batch):
    """Mean token loss by transformers' own path, a row at a time."""
    total, count = 0.0, 0
    for row in batch:
        ids = torch.tensor([[*row.prompt, *row.completion]])
        logits = model(input_ids=ids).logits[0, len(row.prompt) - 1 : -1]
        total = total + torch.nn.functional.cross_entropy(
            logits, torch.tensor(row.completion), reduction="sum"
        )
        count += len(row.completion)
    return total / count


class Improving:
    """Dev scores that rise at every check, or as told."""

    def __init__(self, scores=(0.1, 0.2, 0.3, 0.4)):
        self.scores = list(scores)

    def __call__(self, model):
        return {"score": self.scores.pop(0)}


def weights_of(trained, folder):
    from safetensors.torch import load_file

    folder.mkdir()
    trained.save(folder)
    return load_file(folder / "adapter_model.safetensors")


def same(a, b):
    return bool(a) and a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_batch_loss_and_gradients_equal_row_by_row_training():
    base, batch = tiny_base(), rows(5)
    attached, model = attach(base.model, SETTINGS), base.model
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    wanted = [p for p in model.parameters() if p.requires_grad]
    expected = reference_loss(model, batch)
    expected_gradients = torch.autograd.grad(expected, wanted)
    with fast_lora(model, ADAPTER):
        loss = batch_loss(base, model, batch)
        gradients = torch.autograd.grad(loss, wanted)
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    attached.detach()


def test_head_loss_equals_cross_entropy_across_slices():
    torch.manual_seed(0)
    hidden, head = torch.randn(1100, 8, requires_grad=True), torch.randn(50, 8)
    targets = torch.randint(0, 50, (1100,))
    ours = frozen_head_loss(hidden, head, targets)
    theirs = torch.nn.functional.cross_entropy(hidden @ head.t(), targets)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours, hidden)[0], torch.autograd.grad(theirs, hidden)[0], rtol=1e-4, atol=1e-7
    )


def test_plan_holds_every_row_once_within_the_token_budget():
    made = rows(100)
    plan = plan_batches(made, SETTINGS)
    flat = [row for batch in plan.batches for row in batch]
    assert sorted(flat, key=repr) == sorted(made, key=repr)
    assert all(max(map(len, b)) * len(b) <= SETTINGS.tokens_per_step for b in plan.batches)
    assert plan_batches(made, SETTINGS).identity == plan.identity
    assert plan_batches(made, SETTINGS.model_copy(update={"seed": 6})).identity != plan.identity


def test_rows_that_teach_reading_come_last_and_are_counted():
    kinds = [RowKind.OPEN_BOOK, RowKind.DOCUMENT, RowKind.REFRESHER, RowKind.CLOSED_BOOK, RowKind.ABSTENTION]
    made = [replace(row, kind=kind) for row, kind in zip(rows(100), kinds * 20, strict=True)]
    plan = plan_batches(made, SETTINGS)
    last = {row.kind for batch in plan.batches[-plan.reading :] for row in batch}
    first = {row.kind for batch in plan.batches[: -plan.reading] for row in batch}
    assert last == {RowKind.OPEN_BOOK, RowKind.REFRESHER, RowKind.ABSTENTION}
    assert first == {RowKind.DOCUMENT, RowKind.CLOSED_BOOK}
    assert plan_batches(rows(), SETTINGS).reading == 0


def test_general_texts_are_read_with_the_passages_if_there_are_no_facts_to_learn():
    made = [
        *(replace(row, kind=RowKind.OPEN_BOOK) for row in rows()),
        *(replace(row, kind=RowKind.REPLAY) for row in rows()),
    ]
    plan = plan_batches(made, SETTINGS)
    assert plan.reading == len(plan.batches)
    assert plan_batches([*made, *rows()], SETTINGS).reading < len(plan.batches)


def test_dev_is_scored_only_once_reading_has_begun(tmp_path):
    made = [*rows(100), *(replace(row, kind=RowKind.OPEN_BOOK) for row in rows(100))]
    plan = plan_batches(made, SETTINGS)
    trained = train(tiny_base(), plan, SETTINGS, Improving(), CheckpointStore(tmp_path / "c"))
    begin, end = len(plan.batches) - plan.reading, len(plan.batches)
    assert [check.step for check in trained.history] == [begin + round(plan.reading / 2), end]


def test_the_loss_of_a_check_is_that_of_the_steps_since_the_one_before(tmp_path, monkeypatch):
    losses = iter(range(1000))
    monkeypatch.setattr(training._Run, "_gradient", lambda run, _: (run.master * 0, float(next(losses))))
    made = [*rows(100), *(replace(row, kind=RowKind.OPEN_BOOK) for row in rows(100))]
    plan = plan_batches(made, SETTINGS)
    trained = train(tiny_base(), plan, SETTINGS, Improving(), CheckpointStore(tmp_path / "c"))
    begin, middle, end = len(plan.batches) - plan.reading, *(check.step for check in trained.history)
    assert [check.loss for check in trained.history] == [(begin + middle - 1) / 2, (middle + end - 1) / 2]


def test_training_lowers_the_loss_and_leaves_the_base_model_as_it_was(tmp_path):
    base = tiny_base()
    before = {k: v.clone() for k, v in base.model.state_dict().items()}
    plan = plan_batches(rows() * 6, SETTINGS)
    trained = train(base, plan, SETTINGS, Improving(), CheckpointStore(tmp_path / "c"))
    assert trained.history[-1].loss < trained.history[0].loss
    assert trained.tokens == plan.tokens
    assert same(before, base.model.state_dict())


def test_saved_adapter_loads_in_plain_peft_with_the_same_logits(tmp_path):
    base, plan = tiny_base(), plan_batches(rows(), SETTINGS)
    trained = train(base, plan, SETTINGS, Improving(), CheckpointStore(tmp_path / "c"))
    (tmp_path / "adapter").mkdir()
    trained.save(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(tiny_base().model, tmp_path / "adapter").eval()
    assert not torch.equal(
        loaded(torch.tensor([[5, 6, 7]])).logits, base.model(torch.tensor([[5, 6, 7]])).logits
    )
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == SETTINGS.rank


def test_best_weights_by_dev_score_are_kept(tmp_path):
    plan = plan_batches(rows() * 2, SETTINGS)
    falling = train(tiny_base(), plan, SETTINGS, Improving([0.5, 0.1]), CheckpointStore(tmp_path / "a"))
    rising = train(tiny_base(), plan, SETTINGS, Improving([0.1, 0.5]), CheckpointStore(tmp_path / "b"))
    assert falling.dev_scores == rising.dev_scores == {"score": 0.5}
    assert not same(weights_of(falling, tmp_path / "wa"), weights_of(rising, tmp_path / "wb"))


def test_training_stops_when_dev_no_longer_improves(tmp_path):
    settings = SETTINGS.model_copy(update={"dev_checks": 4, "patience": 2})
    plan = plan_batches(rows() * 6, settings)
    trained = train(
        tiny_base(), plan, settings, Improving([0.5, 0.4, 0.3, 0.9]), CheckpointStore(tmp_path / "c")
    )
    assert len(trained.history) == 3
    assert trained.steps < len(plan.batches)


@pytest.mark.parametrize("stop_after", [1, 4, 7])
def test_interrupted_training_goes_on_to_the_same_weights(tmp_path, monkeypatch, stop_after):
    plan = plan_batches(rows() * 4, SETTINGS)
    whole = train(tiny_base(), plan, SETTINGS, Improving(), CheckpointStore(tmp_path / "whole"))

    calls = 0
    real = training.batch_loss

    def interrupting(*arguments):
        nonlocal calls
        calls += 1
        if calls == stop_after:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments)

    store, dev = CheckpointStore(tmp_path / "part"), Improving()
    monkeypatch.setattr(training, "batch_loss", interrupting)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_base(), plan, SETTINGS, dev, store)
    resumed = train(tiny_base(), plan, SETTINGS, dev, store)
    assert calls == len(plan.batches)
    assert (resumed.steps, resumed.history) == (whole.steps, whole.history)
    assert same(weights_of(whole, tmp_path / "w1"), weights_of(resumed, tmp_path / "w2"))


def test_interrupt_during_a_dev_check_keeps_its_result(tmp_path):
    plan, store = plan_batches(rows() * 2, SETTINGS), CheckpointStore(tmp_path / "c")
    dev = Improving()

    def interrupting(model):
        if len(dev.scores) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return dev(model)

    with pytest.raises(KeyboardInterrupt):
        train(tiny_base(), plan, SETTINGS, interrupting, store)
    trained = train(tiny_base(), plan, SETTINGS, dev, store)
    assert [h.scores["score"] for h in trained.history] == [0.1, 0.2]


def test_damaged_checkpoint_is_set_aside(tmp_path):
    plan, store = plan_batches(rows(), SETTINGS), CheckpointStore(tmp_path / "c")
    train(tiny_base(), plan, SETTINGS, Improving(), store)
    file = tmp_path / "c" / "state.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    assert len(train(tiny_base(), plan, SETTINGS, Improving(), store).history) == 2


def test_checkpoint_of_another_plan_is_not_continued(tmp_path):
    store = CheckpointStore(tmp_path / "c")
    train(tiny_base(), plan_batches(rows(), SETTINGS), SETTINGS, Improving(), store)
    other = SETTINGS.model_copy(update={"learning_rate": 2e-2})
    trained = train(tiny_base(), plan_batches(rows(), other), other, Improving(), store)
    assert len(trained.history) == 2


def test_checkpoint_whose_best_weights_another_judge_chose_is_not_continued(tmp_path):
    plan = plan_batches(rows(), SETTINGS)
    train(tiny_base(), plan, SETTINGS, Improving(), CheckpointStore(tmp_path / "c", "f1"))
    for judge, scores in (("f1", []), ("exact match", [0.3, 0.4])):
        found = train(tiny_base(), plan, SETTINGS, Improving(scores), CheckpointStore(tmp_path / "c", judge))
        assert [h.scores["score"] for h in found.history] == (scores or [0.1, 0.2])


def test_full_disk_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    import tuner.checkpoint as module

    store, plan = CheckpointStore(tmp_path / "c"), plan_batches(rows(), SETTINGS)
    train(tiny_base(), plan, SETTINGS, Improving(), store)
    kept = (tmp_path / "c" / "state.safetensors").read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    other = SETTINGS.model_copy(update={"seed": 9})
    with pytest.raises(OSError, match="No space left"):
        train(tiny_base(), plan_batches(rows(), other), other, Improving(), store)
    assert (tmp_path / "c" / "state.safetensors").read_bytes() == kept
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_diverged_training_says_so_and_restores_the_base_model(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "batch_loss", lambda *_: torch.tensor(float("nan"), requires_grad=True))
    base = tiny_base()
    with pytest.raises(TrainingDivergedError, match="learning_rate"):
        train(base, plan_batches(rows(), SETTINGS), SETTINGS, Improving(), CheckpointStore(tmp_path / "c"))
    assert type(base.model) is LlamaForCausalLM
    assert not any("lora" in name for name, _ in base.model.named_parameters())


def test_a_run_of_one_step_is_checked_once_whatever_is_asked(tmp_path):
    plan = plan_batches(rows(1), SETTINGS)
    trained = train(tiny_base(), plan, SETTINGS, Improving(), CheckpointStore(tmp_path / "c"))
    assert [h.step for h in trained.history] == [1]
