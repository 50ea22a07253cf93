"""Learned virtual tokens before every prompt: prompt tuning, p-tuning and prefix tuning.

The decoder is hooked, so that training and cached decoding both see the virtual tokens without knowing of them. They
never enter the caller's cache: their keys and values are put before what comes out of it, so that rows may join and
leave a batch and prefixes may be kept and reused as without them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from peft import PrefixTuningConfig, PromptEncoder, PromptEncoderConfig, PromptTuningConfig
from torch import Tensor, nn
from transformers import DynamicCache

from tuner.peft_format import as_json

_PROMPT_EMBEDDINGS = "prompt_embeddings"


class SoftPrefix:
    """The hooks of one prefix.

    `prefix()` is [n, hidden], embeddings that are read before the prompt; or, with `cached`, [n, layers * 2 * width],
    the keys and values themselves in PEFT's layout.
    """

    def __init__(self, model: Any, prefix: Callable[[], Tensor], cached: bool) -> None:
        self._model = model
        self._embed = model.get_input_embeddings()
        self._prefix, self._cached = prefix, cached
        config = model.config.get_text_config()
        self._layers = int(config.num_hidden_layers)
        self._heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
        self._kept: Tensor | None = None
        self._reads_prefix = self._passes = False
        decoder = getattr(model, model.base_model_prefix)
        self._hooks = [
            decoder.register_forward_pre_hook(self._before, with_kwargs=True),
            decoder.register_forward_hook(self._after),
        ]

    @classmethod
    def loaded(cls, model: Any, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> SoftPrefix:
        """From PEFT's files."""
        learned = tensors[_PROMPT_EMBEDDINGS].to(model.device, model.dtype)
        return cls(model, lambda: learned, config["peft_type"] == "PREFIX_TUNING")

    def detach(self) -> None:
        """No more virtual tokens."""
        for hook in self._hooks:
            hook.remove()

    def _before(
        self, _decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        self._reads_prefix = False
        if self._passes:
            return args, kwargs
        kwargs = dict(kwargs)
        cache, prefix = kwargs.get("past_key_values"), self._prefix()
        if (mask := kwargs.get("attention_mask")) is not None:
            kwargs["attention_mask"] = torch.cat([mask.new_ones((len(mask), len(prefix))), mask], dim=1)
        if (positions := kwargs.get("position_ids")) is not None:
            kwargs["position_ids"] = positions = positions + len(prefix)
        if cache is None and not self._cached:
            # Training: the gradient goes through the reading of the virtual tokens.
            self._reads_prefix = True
            ids = kwargs.pop("input_ids")
            if positions is not None:
                first = torch.arange(len(prefix), device=positions.device).expand(len(positions), -1)
                kwargs["position_ids"] = torch.cat([first, positions], dim=1)
            kwargs["inputs_embeds"] = torch.cat([prefix.expand(len(ids), -1, -1), self._embed(ids)], dim=1)
            return args, kwargs
        kwargs["past_key_values"] = _PrefixedCache(cache, self._keys_and_values(prefix, cache))
        return args, kwargs

    def _after(self, _decoder: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        if self._reads_prefix:
            output.last_hidden_state = output.last_hidden_state[:, len(self._prefix()) :]
        return output

    def _keys_and_values(self, prefix: Tensor, cache: DynamicCache | None) -> Tensor:
        """[layers * 2, heads, n, width]; embeddings are read anew with each new cache, as training changes them."""
        if not self._cached and (self._kept is None or cache is None or cache.get_seq_length() == 0):
            self._passes = True
            try:
                self._kept = _keys_and_values(self._model, prefix)
            finally:
                self._passes = False
        if not self._cached and self._kept is not None:
            return self._kept.permute(1, 2, 0, 3)
        return prefix.view(len(prefix), self._layers * 2, self._heads, -1).permute(1, 2, 0, 3)


class _PrefixedCache(DynamicCache):  # type: ignore[misc]
    """The caller's cache, with the same keys and values put before those of every row and layer.

    Without a cache (in training) nothing is kept, so that a layer may be computed a second time.
    """

    def __init__(self, cache: DynamicCache | None, prefix: Tensor) -> None:
        super().__init__()
        self._keeps = cache is not None
        if cache is not None:
            self.layers = cache.layers
        self._prefix = prefix

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if self._keeps:
            keys, values = super().update(keys, values, layer, *args, **kwargs)
        before = self._prefix[2 * layer : 2 * layer + 2, None].expand(-1, len(keys), -1, -1, -1)
        return torch.cat([before[0], keys], dim=2), torch.cat([before[1], values], dim=2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return int(super().get_seq_length(layer_idx)) + self._prefix.shape[2]

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        length, offset = super().get_mask_sizes(query_length, layer_idx)
        return length + self._prefix.shape[2], offset


class PromptTuning:
    """Lester et al. 2021 (arXiv:2104.08691): trained embeddings, which start as those of drawn tokens."""

    def __init__(self, model: Any, tokens: int) -> None:
        self._learned = nn.Parameter(_drawn_embeddings(model, tokens))
        self._prefix = SoftPrefix(model, lambda: self._learned, cached=False)
        self._config = PromptTuningConfig(**_shape(model, tokens))

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        return [self._learned]

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """In PEFT's format."""
        return {_PROMPT_EMBEDDINGS: self._learned.detach().cpu().clone()}, as_json(self._config)

    def detach(self) -> None:
        """No more virtual tokens."""
        self._prefix.detach()


class PromptEncoding:
    """P-tuning (Liu et al. 2021, arXiv:2103.10385): a trained network puts out the embeddings, which are saved."""

    def __init__(self, model: Any, tokens: int) -> None:
        hidden = model.get_input_embeddings().weight.shape[1]
        self._config = PromptEncoderConfig(**_shape(model, tokens), encoder_hidden_size=hidden)
        self._encoder: nn.Module = PromptEncoder(self._config).to(  # type: ignore[no-untyped-call]
            model.device, model.dtype
        )
        self._indices = torch.arange(tokens, device=model.device)
        self._prefix = SoftPrefix(model, lambda: self._encoder(self._indices), cached=False)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        return list(self._encoder.parameters())

    @torch.no_grad()
    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """In PEFT's format."""
        return {_PROMPT_EMBEDDINGS: self._encoder(self._indices).cpu().clone()}, as_json(self._config)

    def detach(self) -> None:
        """No more virtual tokens."""
        self._prefix.detach()


class PrefixTuning:
    """Li and Liang 2021 (arXiv:2101.00190): trained keys and values, which start as those of drawn tokens."""

    def __init__(self, model: Any, tokens: int) -> None:
        keys_and_values = _keys_and_values(model, _drawn_embeddings(model, tokens))
        heads, width = keys_and_values.shape[2:]
        self._learned = nn.Parameter(keys_and_values.reshape(tokens, -1))
        self._prefix = SoftPrefix(model, lambda: self._learned, cached=True)
        shape = {**_shape(model, tokens), "token_dim": heads * width, "num_attention_heads": heads}
        self._config = PrefixTuningConfig(**shape, encoder_hidden_size=heads * width)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        return [self._learned]

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """In PEFT's format."""
        return {_PROMPT_EMBEDDINGS: self._learned.detach().cpu().clone()}, as_json(self._config)

    def detach(self) -> None:
        """No more virtual tokens."""
        self._prefix.detach()


def _drawn_embeddings(model: Any, tokens: int) -> Tensor:
    """Embeddings of tokens drawn from the vocabulary, [tokens, hidden]."""
    table = model.get_input_embeddings().weight.detach()
    drawn: Tensor = table[torch.randint(len(table), (tokens,)).to(table.device)]
    return drawn.clone()


@torch.no_grad()
def _keys_and_values(model: Any, embeddings: Tensor) -> Tensor:
    """What the decoder's layers keep of `embeddings`: [tokens, layers * 2, heads, width]."""
    cache = DynamicCache()
    getattr(model, model.base_model_prefix)(
        inputs_embeds=embeddings[None], past_key_values=cache, use_cache=True
    )
    kept = [part[0].transpose(0, 1) for layer in cache.layers for part in (layer.keys, layer.values)]
    return torch.stack(kept, dim=1)


def _shape(model: Any, tokens: int) -> dict[str, Any]:
    config = model.config.get_text_config()
    return {
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(model.name_or_path),
        "num_virtual_tokens": tokens,
        "num_transformer_submodules": 1,
        "num_layers": config.num_hidden_layers,
        "token_dim": model.get_input_embeddings().weight.shape[1],
        "num_attention_heads": config.num_attention_heads,
    }
