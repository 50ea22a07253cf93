from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from service.generation import GenerationRequest, LocalGenerator, Run
from service.prefix_cache import PrefixCache
from tests.tiny import tiny_adapter, tiny_base, tiny_manifest
from tuner.base_model import BaseModel
from tuner.config import Method, TuneConfig
from tuner.decoding import Decoded, DecodingCancelled, Sampling, decode
from tuner.fast_lora import _FusedForward
from tuner.fast_norm import _Normalise
from tuner.kv_cache import Prefix
from tuner.methods import attach
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


def run_all(generator: LocalGenerator, asked: list[GenerationRequest], at_once: int) -> list[Decoded]:
    """Admit a few requests at a time, with two steps in between."""
    runs = [Run(request) for request in asked]
    for first in range(0, len(runs), at_once):
        generator.admit(runs[first : first + at_once])
        generator.step()
        generator.step()
    while any(run.decoded is None for run in runs):
        generator.step()
    return [run.decoded for run in runs if run.decoded is not None]


@pytest.mark.parametrize(("at_once", "max_adapters"), [(1, 8), (5, 8), (12, 3), (12, 2), (1, 1)])
def test_runs_that_join_one_another_answer_as_alone_whatever_their_adapter(
    base: BaseModel, registry: Registry, at_once: int, max_adapters: int
) -> None:
    asked = requests(base, None, "mixed@1", "mixed@2", "other@1")
    joined = run_all(LocalGenerator(base, registry, max_adapters), asked, at_once)
    assert joined == LocalGenerator(tiny_base(), registry).generate(asked)


@pytest.mark.parametrize("method", [Method.PROMPT_TUNING, Method.PREFIX_TUNING, Method.IA3, Method.DORA])
def test_every_method_answers_in_joined_batches_as_alone(tmp_path: Path, method: Method) -> None:
    """Virtual tokens stand before padding and before remembered starts alike."""
    base = tiny_base()
    registry = Registry(tmp_path)
    attached = attach(base.model, TuneConfig(method=method, rank=4, virtual_tokens=5, seed=3))
    with torch.no_grad():
        for parameter in attached.parameters:
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)) * 0.3)
    tensors, config = attached.saved()
    attached.detach()

    def write(folder: Path) -> None:
        save_file(tensors, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps(config))

    registry.add("odd", write, tiny_manifest(base))
    tiny_adapter(tmp_path, base, "mixed", 0)
    tiny_adapter(tmp_path, base, "other", 2)
    start = "Three solved examples stand before every question, word for word the same. "
    asked = [
        GenerationRequest(tuple(base.tokenizer(start * repeat + question)["input_ids"]), adapter, SAMPLING)
        for repeat in (0, 1, 1, 2)
        for question in QUESTIONS
        for adapter in ("odd@1", None, "mixed@1", "other@1")
    ]
    generator = LocalGenerator(base, registry)
    assert run_all(generator, asked, 3) == LocalGenerator(tiny_base(), registry).generate(asked)
    assert generator.prefixes.hits > 0


def patched_by(base: BaseModel) -> set[type]:
    """What stands in place of the layers' own `forward`."""
    return {type(vars(m)["forward"]) for m in base.model.modules() if "forward" in vars(m)}


def test_failure_in_a_mixed_step_leaves_no_layer_patched(
    base: BaseModel, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = LocalGenerator(base, registry)
    asked = requests(base, None, "mixed@1", "other@1")
    expected = LocalGenerator(tiny_base(), registry).generate(asked)
    generator.admit([Run(request) for request in asked])
    with monkeypatch.context() as patch:
        patch.setattr(base.model.model.layers[1].mlp, "forward", _fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            generator.step()
    assert patched_by(base) <= {_FusedForward, _Normalise}
    generator.reset()
    assert patched_by(base) == {_Normalise}
    assert run_all(generator, asked, 9) == expected


def test_text_of_a_run_grows_to_its_answer(base: BaseModel, registry: Registry) -> None:
    generator = LocalGenerator(base, registry)
    run = Run(requests(base, "mixed@1")[0])
    generator.admit([run])
    shown = [run.text]
    while run.decoded is None:
        generator.step()
        shown.append(run.text)
    assert len(set(shown)) > 3
    assert shown[-1] == run.decoded.text
    assert all(run.decoded.text.startswith(text) for text in shown)


def test_shared_start_is_read_once_and_changes_no_answer(base: BaseModel, registry: Registry) -> None:
    start = "Three solved examples stand before every question, word for word the same. "
    asked = [
        GenerationRequest(tuple(base.tokenizer(start + question)["input_ids"]), adapter, SAMPLING)
        for question in QUESTIONS
        for adapter in (None, "mixed@1")
    ]
    generator = LocalGenerator(base, registry)
    first = run_all(generator, asked, 1)
    hits = generator.prefixes.hits
    assert hits > 0
    assert run_all(generator, asked, 3) == first == LocalGenerator(tiny_base(), registry).generate(asked)
    assert generator.prefixes.hits == hits + len(asked)


def test_prefix_of_one_adapter_is_never_used_for_another(base: BaseModel, registry: Registry) -> None:
    prompt = tuple(
        base.tokenizer("The same long prompt for everybody, and no shorter than it must be.")["input_ids"]
    )
    adapters = (None, "mixed@1", "mixed@2", "other@1")
    asked = [GenerationRequest(prompt, adapter, SAMPLING) for adapter in adapters] * 3
    answers = run_all(LocalGenerator(base, registry), asked, 1)
    assert answers == LocalGenerator(tiny_base(), registry).generate(asked)
    assert len({answer.text for answer in answers}) == 4


def test_prefix_cache_stays_within_its_bytes() -> None:
    def prefix(*tokens: int) -> Prefix:
        return Prefix(tokens, ((torch.zeros(1, 1, len(tokens), 1), torch.zeros(1, 1, len(tokens), 1)),))

    cache = PrefixCache(max_bytes=64)  # 8 bytes a token
    cache.add(None, prefix(1, 2, 3))
    cache.add("a@1", prefix(1, 2, 3, 4))
    assert cache.find(None, (1, 2, 3, 9)) is not None
    cache.add(None, prefix(5, 6))
    assert cache.nbytes == 40
    assert cache.find("a@1", (1, 2, 3, 4, 5)) is None  # unused for longest
    assert cache.find(None, (1, 2, 3)) is None  # nothing would be left to read
    cache.add(None, prefix(*range(9)))
    assert cache.nbytes == 40


def test_adapter_that_fails_to_load_leaves_nothing_behind(
    base: BaseModel, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = LocalGenerator(base, registry)
    with monkeypatch.context() as patch:
        patch.setattr("peft.peft_model.PeftModel.load_adapter", _fail)
        with pytest.raises(AdapterError, match="mixed@1 cannot be loaded"):
            generator.generate(requests(base, "mixed@1"))
    assert not any("lora" in name or "base_layer" in name for name, _ in base.model.named_parameters())
    assert generator.adapters.loaded == ()
    assert generator.generate(requests(base, None)) == plain_answers()
    assert generator.generate(requests(base, "mixed@1")) == LocalGenerator(tiny_base(), registry).generate(
        requests(base, "mixed@1")
    )


def _fail(*_: object, **__: object) -> None:
    raise RuntimeError("out of memory")
