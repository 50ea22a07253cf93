"""LoRA and its kin: PEFT's layers around the base model's linear layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, replace_lora_weights_loftq
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tuner.config import Method, TuneConfig
from tuner.peft_format import as_json

ADAPTER = "openbook"
_SVD_ITERATIONS = 8
_STABILISED_ALPHA = 16


class Lora:
    """A LoRA adapter (Hu et al. 2022, arXiv:2106.09685) in every linear layer, `lora_alpha` twice the rank.

    Also DoRA (Liu et al. 2024, arXiv:2402.09353) and rank-stabilised LoRA (Kalajdzievski 2023, arXiv:2312.03732),
    which scales by `alpha / sqrt(rank)` with a fixed alpha, so that the scale falls more slowly with the rank.
    """

    def __init__(self, model: Any, settings: TuneConfig) -> None:
        stabilised = settings.method is Method.RSLORA
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=_STABILISED_ALPHA if stabilised else 2 * settings.rank,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
            use_rslora=stabilised,
            use_dora=settings.method is Method.DORA,
            lora_dropout=settings.dropout,
        )
        # In the model's own number format: the optimiser holds a float32 copy.
        self.peft = get_peft_model(model, config, adapter_name=ADAPTER, autocast_adapter_dtype=False)
        self.peft.eval()  # new layers are in training mode, and would drop out while they are scored
        if settings.loftq:
            self._make_good_for_rounding(model)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        return [p for p in self.peft.parameters() if p.requires_grad]

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and configuration in PEFT's format."""
        tensors = get_peft_model_state_dict(self.peft, adapter_name=ADAPTER)
        config = self.peft.peft_config[ADAPTER]
        return {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}, as_json(config)

    def detach(self) -> None:
        """Take the layers out again: the base model is as it was."""
        unload(self.peft.get_base_model())

    def _make_good_for_rounding(self, model: Any) -> None:
        """LoftQ (Li et al. 2023, arXiv:2310.08659), one iteration; not run by us yet, as it needs a GPU."""
        replace_lora_weights_loftq(self.peft, str(model.name_or_path), ADAPTER)
        for layer in self.peft.modules():
            if isinstance(layer, LoraLayer):
                a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
                a.data = a.data.to(model.dtype)
                b.data = (b.data / layer.scaling[ADAPTER]).to(model.dtype)


class Pissa(Lora):
    """LoRA that starts at the principal components of each weight (Meng et al. 2024, arXiv:2404.02948).

    The paper moves those components out of the frozen weight. Here the weight stays, because other adapters share
    it, and the layer subtracts what the fresh adapter adds: the same function. Saved, the two are one plain LoRA
    adapter of twice the rank.
    """

    def __init__(self, model: Any, settings: TuneConfig) -> None:
        super().__init__(model, settings)
        self._start: dict[str, tuple[Tensor, Tensor]] = {}
        self._hooks: list[RemovableHandle] = []
        try:
            for name, layer in self._layers():
                a, b = _principal(layer, settings.rank, float(layer.scaling[ADAPTER]))
                layer.lora_A[ADAPTER].weight.data.copy_(a)
                layer.lora_B[ADAPTER].weight.data.copy_(b)
                self._start[name] = (a, b)
                self._hooks.append(
                    layer.register_forward_hook(_Subtract(a, b, float(layer.scaling[ADAPTER])))
                )
        except BaseException:
            self.detach()
            raise

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """A LoRA adapter of rank 2r: what was trained, and minus what it started from."""
        tensors, config = super().saved()
        for name, (a, b) in self._start.items():
            key = f"base_model.model.{name.removeprefix('base_model.model.')}"
            a_key, b_key = f"{key}.lora_A.weight", f"{key}.lora_B.weight"
            tensors[a_key] = torch.cat([tensors[a_key], a.cpu()])
            tensors[b_key] = torch.cat([tensors[b_key], -b.cpu()], dim=1)
        return tensors, {**config, "r": 2 * config["r"], "lora_alpha": 2 * config["lora_alpha"]}

    def detach(self) -> None:
        """Take hooks and layers out again."""
        for hook in self._hooks:
            hook.remove()
        super().detach()

    def _layers(self) -> Iterator[tuple[str, Any]]:
        for name, module in self.peft.named_modules():
            if isinstance(module, LoraLayer):
                yield name, module


@contextmanager
def dropping_out(model: nn.Module, seed: int) -> Iterator[None]:
    """Inside, LoRA layers with dropout drop out, by `seed`; a run that goes on then draws what it would have drawn."""
    layers = [m for m in model.modules() if isinstance(m, LoraLayer) and _has_dropout(m)]
    if not layers:
        yield
        return
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for layer in layers:
            layer.train()
        try:
            yield
        finally:
            for layer in layers:
                layer.eval()


def _has_dropout(layer: Any) -> bool:
    return ADAPTER in layer.lora_dropout and isinstance(layer.lora_dropout[ADAPTER], nn.Dropout)


class _Subtract:
    def __init__(self, a: Tensor, b: Tensor, scale: float) -> None:
        self.a, self.b = a, b * scale

    def __call__(self, _layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output - (inputs[0] @ self.a.t()) @ self.b.t()


def unload(model: nn.Module) -> None:
    """Take all of PEFT's layers out of the base model, also those of an adapter that failed to load."""
    wrapped = [(name, m) for name, m in model.named_modules() if isinstance(m, BaseTunerLayer)]
    for name, layer in wrapped:
        model.set_submodule(name, layer.get_base_layer())
    # PEFT leaves its configuration on the base model, and would warn about a second adapter.
    with suppress(AttributeError):
        del model.peft_config


def _principal(layer: Any, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """`a` [rank, in] and `b` [out, rank] with `scale * b @ a` the best approximation of the layer's weight."""
    weight = layer.get_base_layer().weight
    if rank > min(weight.shape):
        raise ValueError(f"rank {rank} is more than a layer of shape {tuple(weight.shape)} has")
    u, s, v = torch.svd_lowrank(weight.float(), q=rank, niter=_SVD_ITERATIONS)
    root = (s / scale).sqrt()
    return (root[:, None] * v.t()).to(weight.dtype), (u * root).to(weight.dtype)
