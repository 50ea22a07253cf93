import pytest
import torch
from tiny import tiny_base
from transformers import Gemma2Config, Gemma2ForCausalLM, MistralConfig, MistralForCausalLM

from tuner.attention import GROUPED, use_grouped_attention
from tuner.kv_cache import RoomyCache

SIZE = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def continued(model, implementation, mask, cache=None):
    """Logits of three tokens read one by one after a prompt of six."""
    model.set_attn_implementation(implementation)
    ids = torch.arange(3, 3 + mask.shape[0] * 9).view(mask.shape[0], 9) % 40
    with torch.inference_mode():
        logits = []
        for start, end in ((0, 6), (6, 7), (7, 8), (8, 9)):
            output = model(
                ids[:, start:end], attention_mask=mask[:, :end], past_key_values=cache, use_cache=True
            )
            cache = output.past_key_values
            logits.append(output.logits[:, -1])
    return torch.stack(logits)


@pytest.mark.parametrize("padding", [(0, 0), (0, 4)])
@pytest.mark.parametrize("window", [None, 4])
def test_single_tokens_attend_as_by_the_fused_kernel(padding, window):
    torch.manual_seed(0)
    config = MistralConfig(
        **SIZE,
        sliding_window=window,
    )
    model = MistralForCausalLM(config).eval()
    use_grouped_attention(model)
    assert model.config._attn_implementation == GROUPED
    mask = torch.ones((2, 9), dtype=torch.long)
    for row, count in enumerate(padding):
        mask[row, :count] = 0
    fused = continued(model, "sdpa", mask)
    for implementation, cache in ((GROUPED, None), (GROUPED, RoomyCache()), ("sdpa", RoomyCache())):
        found = continued(model, implementation, mask, cache)
        torch.testing.assert_close(found, fused, atol=1e-5, rtol=1e-5)


def test_a_model_that_cannot_use_the_fused_kernel_stays_as_it_is():
    config = Gemma2Config(
        **SIZE,
        head_dim=8,
        attn_implementation="eager",
    )
    model = Gemma2ForCausalLM(config)
    use_grouped_attention(model)
    assert model.config._attn_implementation == "eager"


def test_the_choice_is_not_kept_with_the_model(tmp_path):
    model = tiny_base().model
    assert model.config._attn_implementation == GROUPED
    model.save_pretrained(tmp_path)
    assert GROUPED not in (tmp_path / "config.json").read_text()
