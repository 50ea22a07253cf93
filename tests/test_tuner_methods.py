import json

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from tiny import tiny_adapter, tiny_base, tiny_manifest
from transformers import LlamaForCausalLM

from eval.likelihood import Continuation, log_likelihoods
from tuner.base_model import ModelError, load_base
from tuner.batches import plan_batches
from tuner.checkpoint import CheckpointStore
from tuner.config import LEARNING_RATES, Method, TuneConfig
from tuner.decoding import Sampling, decode
from tuner.examples import Row, RowKind
from tuner.loading import ResidentAdapters
from tuner.methods import MethodError, attach
from tuner.registry import AdapterError, Registry
from tuner.train import train

RATES = {Method.PROMPT_TUNING: 0.2, Method.P_TUNING: 0.02, Method.IA3: 0.1, Method.PREFIX_TUNING: 0.05}
IN_PEFT = [m for m in Method if m not in (Method.LAST_LAYER, Method.FULL)]
PROMPTS = ["When does the harbour open?", "Who?", "How many steps has the tower?"]


def settings(method, **changes):
    given = {"learning_rate": RATES.get(method, 1e-2), "rank": 4, "tokens_per_step": 512, "virtual_tokens": 5}
    return TuneConfig(method=method, seed=5, **(given | changes))


def rows():
    """One text again and again: anything trainable can learn it."""
    ids = tuple(torch.randint(4, 200, (24,), generator=torch.Generator().manual_seed(1)).tolist())
    return [Row(RowKind.DOCUMENT, ids[:8], ids[8:])] * 160


class Recorder:
    """Dev scores that rise, so that the last weights are kept; remembers the logits of each check."""

    def __init__(self):
        self.logits = []

    def __call__(self, model):
        self.logits.append(logits(model))
        return {"score": float(len(self.logits))}


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """An adapter of every method, each trained on a base model that must come out unchanged."""
    root = tmp_path_factory.mktemp("adapters")
    registry = Registry(root)
    for method in Method:
        base, chosen = tiny_base(), settings(method)
        before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
        store = CheckpointStore(root / ".checkpoints" / method)
        dev = Recorder()
        trained = train(base, plan_batches(rows(), chosen), chosen, dev, store)
        registry.add(method, trained.save, {**tiny_manifest(base), "method": method})
        registry.promote(method, 1)
        (root / method / "losses.json").write_text(json.dumps([h.loss for h in trained.history]))
        torch.save(dev.logits[-1], root / method / "trained.pt")
        after = base.model.state_dict()
        assert before.keys() == after.keys(), method
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items()), method
        assert type(base.model) is LlamaForCausalLM
    return registry


def logits(model, ids=((5, 6, 7, 8),)):
    with torch.inference_mode():
        return model(torch.tensor(ids)).logits.clone()


def answers(base):
    prompts = [base.tokenizer(p)["input_ids"] for p in PROMPTS]
    return decode(base.model, base.tokenizer, prompts, [Sampling(8)] * len(prompts))


@pytest.mark.parametrize("method", Method)
def test_training_by_any_method_lowers_the_loss(registry, method):
    first, last = json.loads((registry.root / method / "losses.json").read_text())
    assert last < first


@pytest.mark.parametrize("method", IN_PEFT)
def test_an_adapter_loads_in_plain_peft_with_the_same_logits(registry, method):
    base = tiny_base()
    ResidentAdapters(base, registry).use(f"{method}@1")
    ours = logits(base.model)
    theirs = logits(PeftModel.from_pretrained(tiny_base().model, registry.resolve(method).path).eval())
    torch.testing.assert_close(ours, theirs[:, -ours.shape[1] :], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ours, logits(tiny_base().model), atol=1e-2)


@pytest.mark.parametrize("method", Method)
def test_likelihoods_are_measured_with_any_method(registry, method):
    base = tiny_base()
    ResidentAdapters(base, registry).use(f"{method}@1")
    rows = [Continuation((5, 6, 7), (8, 9)), Continuation((5,), (6,))]  # batched: the second is padded
    together = log_likelihoods(base.model, base.tokenizer.pad_token_id, rows)
    apart = [log_likelihoods(base.model, base.tokenizer.pad_token_id, [row])[0] for row in rows]
    assert together == pytest.approx(apart, abs=1e-4)
    plain = logits(base.model, ((5, 6, 7, 8),)).log_softmax(-1)[0]
    expected = float(plain[2, 8] + logits(base.model, ((5, 6, 7, 8, 9),)).log_softmax(-1)[0, 3, 9])
    assert together[0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("method", Method)
def test_the_adapter_served_is_the_one_trained(registry, method):
    base = tiny_base()
    ResidentAdapters(base, registry).use(f"{method}@1")
    served = logits(base.model)
    trained = torch.load(registry.root / method / "trained.pt", weights_only=True)
    torch.testing.assert_close(served, trained, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(served, logits(tiny_base().model), atol=1e-2)


def test_adapters_of_all_methods_take_turns_on_one_base_model(registry):
    base = tiny_base()
    resident = ResidentAdapters(base, registry, max_adapters=4)
    expected = {}
    for key in [None, *(f"{method}@1" for method in Method)]:
        other = tiny_base()
        ResidentAdapters(other, registry).use(key)
        expected[key] = answers(other)
    for key in [*expected, *reversed(expected)]:
        resident.use(key)
        assert answers(base) == expected[key], key
        assert len(resident.loaded) <= 4


@pytest.mark.parametrize("method", Method)
def test_batched_decoding_with_an_adapter_equals_one_prompt_at_a_time(registry, method, monkeypatch):
    monkeypatch.setattr("tuner.reader._TOKENS_AT_ONCE", 40)  # in two groups at least
    base = tiny_base()
    prompts = [base.tokenizer("A shared beginning of forty characters. " + p)["input_ids"] for p in PROMPTS]
    ResidentAdapters(base, registry).use(f"{method}@1")
    together = decode(base.model, base.tokenizer, prompts, [Sampling(6)] * 3)
    alone = [decode(base.model, base.tokenizer, [p], [Sampling(6)])[0] for p in prompts]
    assert together == alone


@pytest.mark.parametrize("method", Method)
def test_unloading_leaves_the_plain_base_model(registry, method):
    base = tiny_base()
    resident = ResidentAdapters(base, registry)
    resident.use(f"{method}@1")
    resident.unload_all()
    assert [n for n, _ in base.model.named_modules()] == [n for n, _ in tiny_base().model.named_modules()]
    torch.testing.assert_close(logits(base.model), logits(tiny_base().model), rtol=0, atol=0)
    resident.use(f"{method}@1")
    assert not torch.allclose(logits(base.model), logits(tiny_base().model), atol=1e-2)


@pytest.mark.parametrize("method", [Method.LORA, Method.IA3])
def test_an_adapter_that_does_not_load_leaves_the_base_model_and_the_others_usable(
    tmp_path, registry, method
):
    def write(folder):
        source = registry.resolve(Method.LORA).path
        (folder / "adapter_config.json").write_bytes((source / "adapter_config.json").read_bytes())
        tensors = load_file(source / "adapter_model.safetensors")
        save_file({name: t.repeat(3, 3) for name, t in tensors.items()}, folder / "adapter_model.safetensors")

    base, other = tiny_base(), Registry(tmp_path)
    other.add("broken", write, tiny_manifest(base))
    tiny_adapter(tmp_path, base)
    resident = ResidentAdapters(base, other)
    resident.use("mixed@1")
    expected = logits(base.model)
    with pytest.raises(AdapterError, match="broken@1 cannot be loaded"):
        resident.use("broken@1")
    torch.testing.assert_close(logits(base.model), logits(tiny_base().model), rtol=0, atol=0)
    resident.use("mixed@1")
    torch.testing.assert_close(logits(base.model), expected, rtol=0, atol=0)


def test_pissa_is_saved_as_plain_lora_of_twice_the_rank(registry):
    path = registry.resolve(Method.PISSA).path
    config = json.loads((path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (8, 16, "LORA")
    tensors = load_file(path / "adapter_model.safetensors")
    assert {t.shape[0] for name, t in tensors.items() if "lora_A" in name} == {8}


@pytest.mark.parametrize("method", [Method.LORA, Method.DORA, Method.RSLORA, Method.PISSA, Method.IA3])
def test_a_fresh_adapter_changes_nothing(method):
    base = tiny_base()
    before = logits(base.model)
    attachment = attach(base.model, settings(method))
    torch.testing.assert_close(logits(base.model), before, rtol=1e-3, atol=1e-3)
    attachment.detach()


def test_a_rank_beyond_the_weights_is_refused_by_pissa_and_nothing_stays_attached():
    base = tiny_base()
    with pytest.raises(MethodError, match="rank 64 is more"):
        attach(base.model, settings(Method.PISSA, rank=64))
    assert not any("lora" in name for name, _ in base.model.named_parameters())


def test_ia3_names_an_architecture_that_it_does_not_know():
    base = tiny_base()
    base.model.config.model_type = "unheard-of"
    with pytest.raises(MethodError, match=r"'unheard-of'.*use lora"):
        attach(base.model, settings(Method.IA3))


def test_an_adapter_of_unknown_type_is_refused(tmp_path, registry):
    def write(folder):
        for file in registry.resolve(Method.IA3).path.iterdir():
            if file.suffix in {".json", ".safetensors"}:
                (folder / file.name).write_bytes(file.read_bytes())
        (folder / "adapter_config.json").write_text('{"peft_type": "OFT"}')

    base = tiny_base()
    other = Registry(tmp_path)
    other.add("odd", write, tiny_manifest(base))
    with pytest.raises(AdapterError, match="'OFT' cannot be loaded"):
        ResidentAdapters(base, other).use("odd@1")


@pytest.mark.parametrize("method", Method)
def test_every_method_has_a_usual_learning_rate(method):
    assert TuneConfig(method=method).learning_rate == LEARNING_RATES[method]
    assert TuneConfig(method=method, learning_rate=1.0).learning_rate == 1.0


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine could quantise")
@pytest.mark.parametrize("dtype", ["8bit", "4bit"])
def test_a_quantised_base_model_without_a_gpu_is_refused_in_one_line(tmp_path, dtype):
    tiny_base().model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f'"{dtype}" needs a CUDA GPU.*"bfloat16"'):
        load_base(str(tmp_path), dtype)


@pytest.mark.parametrize("method", [Method.PISSA, Method.LAST_LAYER, Method.FULL])
def test_methods_that_need_plain_weights_refuse_a_quantised_base_model(method):
    base = tiny_base()
    base.model.is_quantized = True
    with pytest.raises(MethodError, match="plain weights"):
        attach(base.model, settings(method))


def test_loftq_without_a_four_bit_base_model_is_refused_in_one_line():
    base = tiny_base()
    with pytest.raises(MethodError, match=r'model\.dtype = "4bit".*CUDA'):
        attach(base.model, settings(Method.LORA, loftq=True))
    assert not any("lora" in name for name, _ in base.model.named_parameters())


def test_loftq_is_for_lora_only():
    with pytest.raises(ValidationError, match='loftq is for method lora, not for "dora"'):
        settings(Method.DORA, loftq=True)
