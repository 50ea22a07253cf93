import pytest
import torch
from test_tuner_methods import rows
from tiny import tiny_base

from tuner.causal_attention import CAUSAL, _attend
from tuner.loss import batch_loss


def inputs(tokens=7):
    torch.manual_seed(0)
    shapes = ((2, 6, tokens, 8), (2, 2, tokens, 8), (2, 2, tokens, 8))
    return [torch.randn(shape, requires_grad=True) for shape in shapes]


def fused(query, key, value, scale):
    attended = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scale, enable_gqa=True
    )
    return attended.transpose(1, 2)


@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_and_its_gradients_are_those_of_torch(scale):
    given = inputs()
    ours, theirs = _attend(None, *given, None, scaling=scale)[0], fused(*given, scale)
    torch.testing.assert_close(ours, theirs)
    towards = torch.randn_like(ours)
    for mine, reference in zip(
        torch.autograd.grad(ours, given, towards), torch.autograd.grad(theirs, given, towards), strict=True
    ):
        torch.testing.assert_close(mine, reference)


def test_no_token_sees_a_later_one():
    query, key, value = inputs()
    before = _attend(None, query, key, value, None)[0][:, :4]
    with torch.no_grad():
        key[:, :, 4:], value[:, :, 4:] = 100.0, -100.0
    assert torch.equal(_attend(None, query, key, value, None)[0][:, :4], before)


def test_a_batch_is_trained_with_it_and_long_rows_are_not():
    base = tiny_base()
    batch_loss(base, base.model, rows()[:3])
    assert base.model.config._attn_implementation == CAUSAL
    long = rows()[0]
    batch_loss(base, base.model, [type(long)(long.kind, long.prompt * 600, long.completion)])
    assert base.model.config._attn_implementation == "sdpa"
