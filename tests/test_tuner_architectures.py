"""Other architectures and tokenisers on the same path: tiny random ones, built in code."""

import warnings
from dataclasses import replace

import pytest
import torch
from tiny import tiny_tokenizer
from transformers import AutoModelForCausalLM as Auto
from transformers import (
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
)

from tuner.base_model import BaseModel, prepare_tokenizer
from tuner.batches import plan_batches
from tuner.checkpoint import CheckpointStore
from tuner.config import Method, TuneConfig
from tuner.decoding import Sampling, decode
from tuner.examples import Row, RowKind
from tuner.fast_lora import fast_lora
from tuner.fast_norm import use_fast_norm
from tuner.lora import ADAPTER
from tuner.loss import batch_loss, has_plain_head
from tuner.methods import attach
from tuner.prompt import build_prompt
from tuner.train import train

TOKENIZER = tiny_tokenizer()
SIZES = {
    "vocab_size": len(TOKENIZER),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "eos_token_id": TOKENIZER.eos_token_id,
    "bos_token_id": None,
    "pad_token_id": TOKENIZER.pad_token_id,
    "initializer_range": 0.3,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "llama-tied-with-bias": LlamaConfig(
        **SIZES, tie_word_embeddings=True, attention_bias=True, mlp_bias=True
    ),
    "mistral": MistralConfig(**SIZES, sliding_window=64),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=16),
    "gemma": GemmaConfig(**SIZES, head_dim=16),
    "gemma2": Gemma2Config(**SIZES, head_dim=16, final_logit_softcapping=2.0, sliding_window=8),
    "gemma3": Gemma3TextConfig(**SIZES, head_dim=16, sliding_window=8),
    "phi": PhiConfig(**SIZES),
    "phi3": Phi3Config(**SIZES),
    "cohere": CohereConfig(**SIZES, logit_scale=0.25),
    "granite": GraniteConfig(**SIZES, logits_scaling=4.0),
}
NOT_PLAIN = {"gemma2", "phi", "cohere", "granite"}
SETTINGS = TuneConfig(rank=4, learning_rate=1e-2, tokens_per_step=256, dev_checks=1, virtual_tokens=4)


def base_of(name):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = Auto.from_config(CONFIGS[name]).eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module.bias is not None:
            torch.nn.init.normal_(module.bias, std=0.3)
    return BaseModel(name, f"hash-of-{name}", model, TOKENIZER, torch.float32, torch.device("cpu"), 512)


def rows(count=24):
    generator = torch.Generator().manual_seed(1)
    made = []
    for _ in range(count):
        length = int(torch.randint(6, 30, (1,), generator=generator))
        ids = torch.randint(4, 200, (length,), generator=generator).tolist()
        made.append(Row(RowKind.DOCUMENT, tuple(ids[:2]), tuple(ids[2:])))
    return made


def reference_loss(model, batch):
    """Mean token loss by the model's own forward, a row at a time."""
    total, count = 0.0, 0
    for row in batch:
        ids = torch.tensor([[*row.prompt, *row.completion]])
        logits = model(input_ids=ids).logits[0, len(row.prompt) - 1 : -1]
        total = total + torch.nn.functional.cross_entropy(
            logits, torch.tensor(row.completion), reduction="sum"
        )
        count += len(row.completion)
    return total / count


@pytest.mark.parametrize("name", CONFIGS)
def test_batch_loss_and_gradients_are_those_of_the_model_itself(name):
    base, batch = base_of(name), rows(5)
    attached = attach(base.model, SETTINGS)
    torch.manual_seed(1)
    for parameter in attached.parameters:
        torch.nn.init.normal_(parameter, std=0.1)
    expected = reference_loss(base.model, batch)
    expected_gradients = torch.autograd.grad(expected, attached.parameters)
    use_fast_norm(base.model)
    with fast_lora(base.model, ADAPTER):
        loss = batch_loss(base, base.model, batch)
        gradients = torch.autograd.grad(loss, attached.parameters)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    attached.detach()


@pytest.mark.parametrize("name", CONFIGS)
def test_bias_soft_cap_and_scale_of_the_head_are_noticed(name):
    assert has_plain_head(base_of(name).model) is (name not in NOT_PLAIN)


@pytest.mark.parametrize("name", CONFIGS)
def test_lora_trains_and_leaves_the_base_model_as_it_was(name, tmp_path):
    base = base_of(name)
    before = {key: tensor.clone() for key, tensor in base.model.state_dict().items()}
    plan = plan_batches(rows() * 3, SETTINGS)
    trained = train(base, plan, SETTINGS, lambda _: {"score": 0.0}, CheckpointStore(tmp_path / "c"))
    assert trained.weights
    after = base.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())


@pytest.mark.parametrize("method", [Method.PREFIX_TUNING, Method.PROMPT_TUNING, Method.LAST_LAYER])
@pytest.mark.parametrize("name", CONFIGS)
def test_methods_beside_lora_decode_in_batches_as_one_at_a_time(name, method):
    base = base_of(name)
    attached = attach(base.model, SETTINGS.model_copy(update={"method": method}))
    prompts = [TOKENIZER(text)["input_ids"] for text in ("When?", "How many steps has the tower?", "Who?")]
    together = decode(base.model, TOKENIZER, prompts, [Sampling(6)] * 3)
    assert together == [decode(base.model, TOKENIZER, [p], [Sampling(6)])[0] for p in prompts]
    attached.detach()


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3", "phi"])
def test_ia3_trains_where_peft_knows_the_layers(name):
    base, batch = base_of(name), rows(4)
    attached = attach(base.model, SETTINGS.model_copy(update={"method": Method.IA3}))
    gradients = torch.autograd.grad(batch_loss(base, base.model, batch), attached.parameters)
    assert all(bool(gradient.abs().sum() > 0) for gradient in gradients)
    attached.detach()


@pytest.mark.parametrize("name", ["llama-tied-with-bias", "gemma2", "phi"])
def test_full_training_reaches_embeddings_and_head(name):
    base, batch = base_of(name), rows(4)
    attached = attach(base.model, SETTINGS.model_copy(update={"method": Method.FULL}))
    loss = batch_loss(base, base.model, batch)
    torch.testing.assert_close(loss, reference_loss(base.model, batch), rtol=1e-4, atol=1e-5)
    gradients = torch.autograd.grad(loss, attached.parameters, allow_unused=True)
    reached = {
        id(p) for p, g in zip(attached.parameters, gradients, strict=True) if g is not None and g.any()
    }
    assert id(base.model.get_input_embeddings().weight) in reached
    assert id(base.model.get_output_embeddings().weight) in reached
    attached.detach()


def without_template():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    return tokenizer


def test_a_tokenizer_without_chat_template_trains_and_answers_in_plain_text(tmp_path):
    base = replace(base_of("llama"), tokenizer=without_template())
    ids = build_prompt(base.tokenizer, "Where?")
    assert base.tokenizer.decode(ids).endswith("Question: Where?\nAnswer:")
    (answer,) = decode(base.model, base.tokenizer, [ids], [Sampling(4)])
    assert answer.prompt_tokens == len(ids)


def test_a_model_without_pad_token_is_padded_with_its_end_token():
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    assert tokenizer.pad_token_id is None
    prepare_tokenizer(tokenizer)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    base = replace(base_of("phi3"), tokenizer=tokenizer)
    batch = rows(5)
    torch.testing.assert_close(
        batch_loss(base, base.model, batch), reference_loss(base.model, batch), rtol=1e-4, atol=1e-5
    )
