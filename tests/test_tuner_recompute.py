import pytest
import torch
from test_tuner_methods import rows, settings
from tiny import tiny_base

from tuner.config import Method
from tuner.fast_lora import fast_lora
from tuner.lora import ADAPTER
from tuner.loss import batch_loss
from tuner.methods import attach
from tuner.recompute import recomputed_blocks


def gradients(method, wanted):
    """Loss, gradients, and how often a layer within a block was computed in one forward and backward pass."""
    base = tiny_base()
    attached = attach(base.model, settings(method))
    computed = []
    base.model.model.layers[0].input_layernorm.register_forward_hook(lambda *_: computed.append(1))
    with fast_lora(base.model, ADAPTER), recomputed_blocks(base.model, wanted):
        loss = batch_loss(base, base.model, rows()[:3])
        found = torch.autograd.grad(loss, attached.parameters, allow_unused=True)
    attached.detach()
    return loss, found, len(computed)


@pytest.mark.parametrize("method", Method)
def test_recomputed_blocks_give_the_very_same_gradients_for_every_method(method):
    loss, expected, times = gradients(method, wanted=False)
    again, found, recomputed = gradients(method, wanted=True)
    assert torch.equal(loss, again)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None and theirs is None) or torch.equal(ours, theirs)
    assert recomputed > times or method is Method.LAST_LAYER  # its first block has nothing to learn


def test_blocks_are_left_as_they_were():
    base = tiny_base()
    with recomputed_blocks(base.model, True):
        assert all("forward" in vars(block) for block in base.model.model.layers)
    assert not any("forward" in vars(block) for block in base.model.model.layers)
