from __future__ import annotations

from pathlib import Path

import pytest

from service.generation import GenerationRequest, LocalGenerator
from tests.tiny import tiny_adapter, tiny_base
from tuner.base_model import BaseModel
from tuner.decoding import Decoded, DecodingCancelled, Sampling, decode
from tuner.registry import AdapterError, Registry

QUESTIONS = ("When does the harbour open?", "Who?", "How many steps has the tower, and how high is it?")
SAMPLING = Sampling(max_new_tokens=12)


@pytest.fixture
def base() -> BaseModel:
    return tiny_base()


@pytest.fixture
def registry(tmp_path: Path, base: BaseModel) -> Registry:
    for name, seed in (("mixed", 0), ("mixed", 1), ("other", 2)):
        tiny_adapter(tmp_path, base, name, seed)
    return Registry(tmp_path)


def requests(base: BaseModel, *adapters: str | None) -> list[GenerationRequest]:
    """Every question for every adapter, the adapters taking turns."""
    return [
        GenerationRequest(tuple(base.tokenizer(question)["input_ids"]), adapter, SAMPLING)
        for question in QUESTIONS
        for adapter in adapters
    ]


def plain_answers() -> list[Decoded]:
    """What the base model says that never had an adapter near it."""
    base = tiny_base()
    prompts = [base.tokenizer(question)["input_ids"] for question in QUESTIONS]
    return decode(base.model, base.tokenizer, prompts, [SAMPLING] * len(prompts))


def test_base_answers_are_those_of_the_plain_base_model_before_and_after_adapters(
    base: BaseModel, registry: Registry
) -> None:
    generator = LocalGenerator(base, registry)
    assert generator.generate(requests(base, None)) == plain_answers()
    generator.generate(requests(base, "mixed@1"))
    assert generator.generate(requests(base, None)) == plain_answers()


def test_mixed_adapters_in_one_call_answer_as_each_does_alone(base: BaseModel, registry: Registry) -> None:
    adapters = (None, "mixed@1", "mixed@2", "other@1")
    together = LocalGenerator(base, registry).generate(requests(base, *adapters))
    for place, adapter in enumerate(adapters):
        other_base = tiny_base()
        alone = LocalGenerator(other_base, registry).generate(requests(other_base, adapter))
        assert together[place :: len(adapters)] == alone


def test_versions_of_one_adapter_differ(base: BaseModel, registry: Registry) -> None:
    first, second = LocalGenerator(base, registry).generate(requests(base, "mixed@1", "mixed@2")[:2])
    assert first.text != second.text


def test_adapter_for_another_base_model_is_refused(tmp_path: Path, base: BaseModel) -> None:
    tiny_adapter(tmp_path, tiny_base(seed=9, name="stranger"))
    generator = LocalGenerator(base, Registry(tmp_path))
    with pytest.raises(AdapterError, match=r"mixed@1 was trained for base model 'stranger'.*'tiny'"):
        generator.generate(requests(base, "mixed@1"))


def test_failure_in_the_middle_leaves_the_next_batch_unharmed(
    base: BaseModel, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = LocalGenerator(base, registry)
    expected = generator.generate(requests(base, None, "mixed@1"))
    layer = base.model.model.layers[1].mlp
    with monkeypatch.context() as patch:
        patch.setattr(layer, "forward", _fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            generator.generate(requests(base, "mixed@1"))
    assert not any("lora" in name for name, _ in base.model.named_parameters())
    assert generator.generate(requests(base, None, "mixed@1")) == expected


def test_least_recently_used_adapter_makes_room(base: BaseModel, registry: Registry) -> None:
    generator = LocalGenerator(base, registry, max_adapters=2)
    expected = generator.generate(requests(base, "mixed@1", "mixed@2", "other@1"))
    held = {name for name, _ in base.model.named_parameters() if "lora_A" in name and "mixed@1" in name}
    assert not held
    assert generator.generate(requests(base, "mixed@1", "mixed@2", "other@1")) == expected


def test_cancelled_generation_stops(base: BaseModel, registry: Registry) -> None:
    generator = LocalGenerator(base, registry)
    with pytest.raises(DecodingCancelled):
        generator.generate(requests(base, "mixed@1"), cancelled=lambda: True)
    assert generator.generate(requests(base, None)) == plain_answers()


def _fail(*_: object, **__: object) -> None:
    raise RuntimeError("out of memory")
