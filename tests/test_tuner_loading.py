import json

import pytest
import torch
from peft.tuners.lora.dora import DoraLinearLayer
from peft.tuners.lora.layer import Linear as LoraLinear
from safetensors.torch import save_file
from tiny import tiny_adapter, tiny_base, tiny_manifest

from tuner.config import Method, TuneConfig
from tuner.fast_lora import leave_fast_lora
from tuner.loading import ResidentAdapters
from tuner.methods import attach
from tuner.mixed_lora import mixed_lora
from tuner.registry import Registry

IDS = torch.arange(2, 16).reshape(2, 7)


@pytest.fixture
def resident(tmp_path):
    base = tiny_base()
    keys = [tiny_adapter(tmp_path, base, name, seed).key for name, seed in (("one", 0), ("two", 1))]
    return base.model, ResidentAdapters(base, Registry(tmp_path)), keys


def fused(model):
    return [m for m in model.modules() if isinstance(m, LoraLinear) and "forward" in vars(m)]


def moved_adapter(root, base, settings):
    """An adapter every number of which training has changed."""
    attached = attach(base.model, settings)
    with torch.no_grad():
        for parameter in attached.parameters:
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)) * 0.3)
    tensors, config = attached.saved()
    attached.detach()

    def write(folder):
        save_file(tensors, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps(config))

    return Registry(root).add("moved", write, tiny_manifest(base))


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS).logits


def test_an_adapter_answers_through_the_fused_layers_as_through_those_of_peft(resident):
    model, adapters, keys = resident
    plain = logits(model)
    for key in keys:
        adapters.use(key)
        assert len(fused(model)) == 14
        found = logits(model)
        leave_fast_lora(model)
        torch.testing.assert_close(found, logits(model), atol=1e-4, rtol=1e-4)
        assert not torch.allclose(found, plain, atol=1e-2)
        adapters.use(None)
        assert not fused(model)
        assert torch.equal(logits(model), plain)


def test_a_dora_adapter_answers_as_by_peft_without_taking_norms_anew(tmp_path, monkeypatch):
    base = tiny_base()
    key = moved_adapter(tmp_path, base, TuneConfig(method=Method.DORA, rank=4)).key
    adapters = ResidentAdapters(base, Registry(tmp_path))
    plain = logits(base.model)
    adapters.use(key)
    assert len(fused(base.model)) == 14
    found = logits(base.model)
    leave_fast_lora(base.model)
    torch.testing.assert_close(found, logits(base.model), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, plain, atol=1e-2)
    adapters.use(None)
    assert torch.equal(logits(base.model), plain)
    monkeypatch.setattr(DoraLinearLayer, "get_weight_norm", None)
    adapters.use(key)
    assert torch.equal(logits(base.model), found)


@pytest.mark.parametrize("method", [Method.LORA, Method.DORA])
def test_an_adapter_trained_with_dropout_answers_through_the_fused_layers(tmp_path, method):
    base = tiny_base()
    key = moved_adapter(tmp_path, base, TuneConfig(method=method, rank=4, dropout=0.2)).key
    ResidentAdapters(base, Registry(tmp_path)).use(key)
    assert len(fused(base.model)) == 14


def test_another_adapter_takes_the_place_of_the_one_before(resident):
    model, adapters, (one, two) = resident
    adapters.use(one)
    first = logits(model)
    adapters.use(two)
    second = logits(model)
    adapters.use(one)
    adapters.forget(two)
    assert torch.equal(logits(model), first)
    assert not torch.allclose(first, second, atol=1e-2)


def test_mixed_batches_leave_the_layers_as_they_found_them(resident):
    model, adapters, (one, two) = resident
    adapters.use(one)
    adapters.use(two)
    before = [vars(layer)["forward"] for layer in fused(model)]
    with mixed_lora(model, [one, None]):
        logits(model)
    assert before
    assert before == [vars(layer)["forward"] for layer in fused(model)]


def test_mixed_rows_have_their_own_adapter_with_and_without_a_dimension_of_tokens(resident):
    model, adapters, (one, two) = resident
    adapters.use(one)
    adapters.use(two)
    layer = fused(model)[0]
    x = torch.randn(3, layer.in_features, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        alone = {None: layer.base_layer(x)}
        for key in (one, two):
            low = layer.lora_B[key](layer.lora_A[key](x))
            alone[key] = alone[None] + layer.scaling[key] * low
        with mixed_lora(model, [two, None, one]):
            found, with_tokens = layer(x), layer(x[:, None])
    expected = torch.stack([alone[key][row] for row, key in enumerate([two, None, one])])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(with_tokens[:, 0], expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(found[1], alone[None][1])
