"""Adapters of every method as the service runs them: in one generator, in batches that rows join and leave."""

import json

import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny_base, tiny_manifest

from service.generation import GenerationRequest, LocalGenerator, Run
from tuner.config import Method, TuneConfig
from tuner.decoding import Sampling
from tuner.methods import attach
from tuner.registry import Registry

SHARED = "These words stand at the beginning of every question that is asked here. "
QUESTIONS = ("Who?", "When does the harbour open?", "How many steps has the tower, and how high is it?")
METHODS = (None, *Method)


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    registry = Registry(tmp_path_factory.mktemp("adapters"))
    for method in Method:
        base = tiny_base()
        attached = attach(base.model, TuneConfig(method=method, rank=4, virtual_tokens=5))
        torch.manual_seed(2)
        with torch.no_grad():
            for parameter in attached.parameters:
                parameter.add_(torch.randn_like(parameter) * 0.2)
        tensors, config = attached.saved()

        def write(folder, tensors=tensors, config=config):
            save_file(tensors, folder / "adapter_model.safetensors")
            (folder / "adapter_config.json").write_text(json.dumps(config))

        registry.add(method, write, {**tiny_manifest(base), "method": method})
    return registry


def request(base, method, text, tokens=6):
    adapter = None if method is None else f"{method}@1"
    return GenerationRequest(tuple(base.tokenizer(SHARED + text)["input_ids"]), adapter, Sampling(tokens))


@pytest.fixture(scope="module")
def alone(registry):
    """What each method answers in a generator of its own, one question at a time."""
    texts = {}
    for method in METHODS:
        for question in QUESTIONS:
            base = tiny_base()
            (decoded,) = LocalGenerator(base, registry).generate([request(base, method, question)])
            texts[method, question] = decoded.text
    return texts


def test_methods_differ(alone):
    assert len({tuple(alone[method, question] for question in QUESTIONS) for method in METHODS}) == len(
        METHODS
    )


def test_all_methods_in_one_call_answer_as_each_does_alone(registry, alone):
    base = tiny_base()
    wanted = [(method, question) for question in QUESTIONS for method in METHODS]
    decoded = LocalGenerator(base, registry).generate([request(base, *pair) for pair in wanted])
    assert [d.text for d in decoded] == [alone[pair] for pair in wanted]


@pytest.mark.parametrize("method", METHODS)
def test_rows_that_join_a_running_batch_and_share_its_prefix_answer_as_alone(registry, alone, method):
    base = tiny_base()
    generator = LocalGenerator(base, registry)
    runs = [Run(request(base, method, question)) for question in (*QUESTIONS, *QUESTIONS)]
    for run in runs:
        generator.admit([run])
        generator.step()
    while any(run.decoded is None for run in runs):
        generator.step()
    assert [run.decoded.text for run in runs] == [alone[method, q] for q in (*QUESTIONS, *QUESTIONS)]
    assert generator.prefixes.hits > 0
