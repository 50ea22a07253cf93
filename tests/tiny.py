"""A tiny random model, tokenizer and adapters built in code, for tests that need no knowledge, just mechanics."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tuner.attention import use_grouped_attention
from tuner.base_model import BaseModel, prepare_tokenizer
from tuner.fast_norm import use_fast_norm
from tuner.registry import AdapterVersion, Registry

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level: every text is representable, one token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    vocabulary = {token: i for i, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", additional_special_tokens=special[1:]
    )
    fast.chat_template = CHAT_TEMPLATE
    prepare_tokenizer(fast)
    return fast


def tiny_base(seed: int = 0, name: str = "tiny") -> BaseModel:
    """A two-layer random Llama in float32."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    use_grouped_attention(model)
    use_fast_norm(model)
    return BaseModel(
        name, f"hash-of-{name}-{seed}", model, tokenizer, torch.float32, torch.device("cpu"), 4096
    )


def tiny_adapter(root: Path, base: BaseModel, name: str = "mixed", seed: int = 0) -> AdapterVersion:
    """A random LoRA adapter (both matrices non-zero) for `tiny_base`, promoted in the registry at `root`."""
    torch.manual_seed(1000 + seed)
    copy = LlamaForCausalLM(base.model.config)
    model = get_peft_model(
        copy, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    for parameter_name, parameter in model.named_parameters():
        if "lora_" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.3)
    registry = Registry(root)
    adapter = registry.add(name, lambda folder: model.save_pretrained(folder), tiny_manifest(base))
    registry.promote(name, adapter.version)
    return adapter


def tiny_manifest(base: BaseModel) -> dict[str, object]:
    """What `Registry.add` needs beside the weights."""
    return {
        "base_model": base.name,
        "base_model_hash": base.hash,
        "corpus_hash": "corpus",
        "corpus_generation": 1,
        "questions_hash": "questions",
        "prompt_hash": "prompt",
        "recipe": "mixed",
        "method": "lora",
        "settings": {},
        "seed": 0,
        "rows": {},
        "tokens": 0,
        "steps": 0,
        "seconds": 0.0,
        "dev_scores": {},
        "versions": {},
        "created": "2026-01-01T00:00:00Z",
    }
