import pytest
import torch
from tiny import tiny_base

from tuner.fast_norm import use_fast_norm


def plain_and_fast(change=lambda norm: None, dtype=torch.float32):
    """The last norm of a model, as transformers computes it and ours."""
    base = tiny_base()
    for norm in (module for module in base.model.modules() if type(module).__name__ == "LlamaRMSNorm"):
        norm.forward = type(norm).forward.__get__(norm)
    norm = base.model.to(dtype).model.norm
    norm.weight.data.uniform_(0.5, 2.0)
    change(norm)
    before = norm.forward
    use_fast_norm(base.model)
    return norm, before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_gradients_are_those_of_transformers(dtype):
    norm, plain = plain_and_fast(dtype=dtype)
    assert norm.forward != plain
    x = torch.randn(3, 5, norm.weight.shape[0], dtype=dtype, requires_grad=True)
    expected, found, towards = plain(x), norm(x), torch.randn_like(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected)
    ours, theirs = (torch.autograd.grad(y, x, towards)[0] for y in (found, expected))
    torch.testing.assert_close(ours, theirs)


def test_a_norm_that_computes_something_else_keeps_its_own():
    def shifted(norm):
        own = type(norm).forward
        norm.forward = lambda x: own(norm, x) + x  # as Gemma's, which adds 1 to the weight

    norm, before = plain_and_fast(shifted)
    assert norm.forward is before


def test_a_norm_that_is_trained_gets_a_gradient():
    norm, plain = plain_and_fast()
    norm.weight.requires_grad_(True)
    x = torch.randn(3, norm.weight.shape[0])
    (expected,) = torch.autograd.grad(plain(x).square().sum(), norm.weight)
    (found,) = torch.autograd.grad(norm(x).square().sum(), norm.weight)
    torch.testing.assert_close(found, expected)
