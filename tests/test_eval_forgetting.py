"""General multiple choice before and after training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from eval.answers import EvalError
from eval.config import EvalConfig
from eval.forgetting import Item, forgetting, item_scores, read_items
from eval.forgetting_commands import eval_forgetting, known_forgetting
from eval.likelihood import Continuation, log_likelihoods
from indexer.config import ModelConfig, Workspace
from tests.fakes_eval import SETUP
from tests.tiny import tiny_adapter, tiny_base
from tuner.base_model import load_base

ITEMS = [
    Item("Which is it?", ("this", "that one", "neither of them"), 1),
    Item("She put on her", ("hat.", "long coat."), 0, "continuation"),
]


def naive_log_likelihood(base, given: list[int], scored: list[int]) -> float:
    """One row, no padding, the definition."""
    with torch.no_grad():
        logits = base.model(input_ids=torch.tensor([[*given, *scored]])).logits[0].log_softmax(dim=-1)
    return float(sum(logits[len(given) - 1 + n, token] for n, token in enumerate(scored)))


def test_batched_likelihoods_are_those_of_single_rows() -> None:
    base = tiny_base()
    rng = np.random.default_rng(0)
    rows = [
        Continuation(rng.integers(4, 200, given).tolist(), rng.integers(4, 200, scored).tolist())
        for given, scored in [(1, 1), (3, 30), (50, 2), (200, 7), (5, 5)]
    ]
    found = log_likelihoods(base.model, base.tokenizer.pad_token_id, rows)
    assert found == pytest.approx([naive_log_likelihood(base, *row) for row in rows], rel=1e-4)


def test_the_choice_that_is_likeliest_per_byte_counts() -> None:
    base = tiny_base()

    def per_byte(given: str, choice: str) -> float:
        start = base.tokenizer(given)["input_ids"]
        scored = base.tokenizer(f" {choice}")["input_ids"]
        return naive_log_likelihood(base, start, scored) / len(choice.encode())

    by_hand = [
        float(np.argmax([per_byte(given, choice) for choice in item.choices]) == item.answer)
        for item, given in zip(ITEMS, ["Question: Which is it?\nAnswer:", "She put on her"], strict=True)
    ]
    assert item_scores(base.model, base.tokenizer, ITEMS, "base").tolist() == by_hand


def test_change_is_paired_with_the_base_model_by_question() -> None:
    before = np.array([1.0] * 60 + [0.0] * 40)
    after = np.array([0.0] * 20 + [1.0] * 40 + [0.0] * 40)
    items = [Item(f"question {n}", ("a", "b", "c", "d"), 0) for n in range(100)]
    found = forgetting(items, ["mixed@1"], lambda key: before if key is None else after, "mine", 2000, 0)[
        "mixed@1"
    ]
    assert (found.base.mean, found.adapter.mean, found.chance) == (0.6, 0.4, 0.25)
    assert found.change.mean == pytest.approx(-0.2)
    assert -0.3 < found.change.ci[0] < found.change.ci[1] < -0.1
    assert found.p < 0.001


def test_the_bundled_questions_are_sound() -> None:
    items = read_items(None)
    assert len(items) >= 100
    assert len({item.question for item in items}) == len(items)
    assert all(len(set(item.choices)) == len(item.choices) == 4 for item in items)
    places = [item.answer for item in items]
    assert max(places.count(place) for place in range(4)) < 0.4 * len(items)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"question": "Who?"}', "line 1: choices"),
        ('{"question": "Who?", "choices": ["a", "b"], "answer": 2}', "answer 2 is not the place"),
        ("nonsense", "line 1: not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "general.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(EvalError, match=said):
        read_items(path)
    with pytest.raises(EvalError, match="cannot be read"):
        read_items(tmp_path / "nowhere.jsonl")


def test_what_an_adapter_forgot_is_measured_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tiny_base()
    base.model.save_pretrained(tmp_path / "tiny")
    base.tokenizer.save_pretrained(tmp_path / "tiny")
    workspace = Workspace(tmp_path)
    model = ModelConfig(base=str(tmp_path / "tiny"), dtype="float32")
    adapter = tiny_adapter(workspace.adapters, load_base(model.base, "float32"))
    general = tmp_path / "mine.jsonl"
    general.write_text(
        "".join(
            json.dumps({"question": f"Q{n}?", "choices": [f"a{n}", f"b{n}"], "answer": n % 2}) + "\n"
            for n in range(20)
        )
    )
    eval_forgetting(workspace, model, EvalConfig(resamples=1000), ["mixed"], [general], as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["mine"]["mixed@1"]["n"] == 20

    hashes = dict.fromkeys(SETUP.adapters, adapter.manifest.weights_hash)
    known = known_forgetting(workspace, replace(SETUP, adapter_hashes=hashes))
    assert known["mixed@1"][0].model_dump(mode="json") == printed["mine"]["mixed@1"]
    assert known_forgetting(workspace, SETUP) == {}
