import json
import shutil
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny import tiny_adapter, tiny_base, tiny_manifest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tuner.base_model import load_base, weights_hash
from tuner.config import Method, TuneConfig
from tuner.exchange import export_adapter, import_adapter, merge_adapter
from tuner.loading import ResidentAdapters
from tuner.methods import attach
from tuner.registry import AdapterError, Registry

IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    """The tiny base model on disk, as `model.base` would name it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    base = tiny_base()
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "adapters")


def add_random(registry, base_folder, method):
    """An adapter of a method with every trained number moved at random."""
    base = load_base(str(base_folder), "float32")
    attached = attach(base.model, TuneConfig(method=method, rank=4, virtual_tokens=3))
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in attached.parameters:
            parameter.add_(torch.randn_like(parameter) * 0.1)
    tensors, config = attached.saved()

    def write(folder):
        save_file(tensors, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps(config))

    return registry.add("mixed", write, {**tiny_manifest(base), "method": method})


def served_logits(registry, base_folder, key):
    base = load_base(str(base_folder), "float32")
    ResidentAdapters(base, registry).use(key)
    with torch.inference_mode():
        return base.model(IDS).logits.clone()


def foreign_lora(tmp_path, base_folder, **config_changes):
    """A LoRA folder as somebody else would have written it."""
    folder = tmp_path / "foreign"
    adapter = tiny_adapter(tmp_path / "theirs", tiny_base())
    shutil.copytree(adapter.path, folder)
    (folder / "manifest.json").unlink()
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(base_folder)
    (folder / "adapter_config.json").write_text(json.dumps(config | config_changes))
    return folder


@pytest.mark.parametrize("method", [Method.LORA, Method.DORA, Method.IA3, Method.PREFIX_TUNING])
def test_an_exported_adapter_loads_in_plain_peft_with_the_same_logits(
    tmp_path, registry, base_folder, method
):
    adapter = add_random(registry, base_folder, method)
    export_adapter(adapter, tmp_path / "out")
    plain = AutoModelForCausalLM.from_pretrained(base_folder)
    theirs = PeftModel.from_pretrained(plain, tmp_path / "out").eval()(IDS).logits[:, -4:]
    torch.testing.assert_close(
        theirs, served_logits(registry, base_folder, adapter.key), rtol=1e-4, atol=1e-4
    )


def test_a_method_that_peft_has_no_format_for_is_exported_by_merging(tmp_path, registry, base_folder):
    adapter = add_random(registry, base_folder, Method.LAST_LAYER)
    with pytest.raises(AdapterError, match="adapters merge mixed@1"):
        export_adapter(adapter, tmp_path / "out")


@pytest.mark.parametrize(
    "method",
    [Method.LORA, Method.DORA, Method.RSLORA, Method.PISSA, Method.IA3, Method.LAST_LAYER, Method.FULL],
)
def test_a_merged_model_is_the_base_model_with_its_adapter(tmp_path, registry, base_folder, method):
    adapter = add_random(registry, base_folder, method)
    merge_adapter(adapter, str(base_folder), tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", use_safetensors=True).eval()
    expected = served_logits(registry, base_folder, adapter.key)
    torch.testing.assert_close(merged(IDS).logits, expected, rtol=1e-3, atol=1e-3)
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").eos_token == "<|end|>"


def test_virtual_tokens_cannot_be_merged(tmp_path, registry, base_folder):
    adapter = add_random(registry, base_folder, Method.PROMPT_TUNING)
    with pytest.raises(AdapterError, match="virtual tokens"):
        merge_adapter(adapter, str(base_folder), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_folder_with_files_is_not_written_over(tmp_path, registry, base_folder):
    adapter = add_random(registry, base_folder, Method.LORA)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("x")
    with pytest.raises(AdapterError, match="not an empty folder"):
        export_adapter(adapter, tmp_path / "out")


@pytest.mark.parametrize("start", [True, "gaussian"])
def test_a_foreign_lora_is_imported_and_answers_as_in_peft(tmp_path, registry, base_folder, start):
    folder = foreign_lora(tmp_path, base_folder, init_lora_weights=start)
    adapter = import_adapter(registry, str(base_folder), folder, "reader")
    assert adapter.key == "reader@1"
    assert adapter.manifest.base_model_hash == weights_hash(base_folder)
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_folder), folder).eval()
    torch.testing.assert_close(
        served_logits(registry, base_folder, "reader@1"), theirs(IDS).logits, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base_model_name_or_path": "someone/else-7b"}, "'someone/else-7b', not for"),
        ({"r": 512}, "rank 512"),
        ({"rank_pattern": {"q_proj": 300}}, "rank 300"),
        ({"peft_type": "OFT"}, "'OFT'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "biases"),
        ({"init_lora_weights": "pissa"}, "'pissa'"),
        ({"r": "many"}, "not a LoRA configuration"),
        ({"r": 0}, "rank 0"),
        ({"rank_pattern": {"q_proj": "8"}}, "rank '8'"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"kasa_config": {"beta": 1.0}}, "kasa_config"),
        ({"lora_bias": True}, "lora_bias"),
        ({"r": 3}, "at rank 3"),
        ({"lora_alpha": float("nan")}, "lora_alpha nan"),
        ({"lora_alpha": float("inf")}, "lora_alpha inf"),
        ({"lora_alpha": None}, "lora_alpha None"),
        ({"alpha_pattern": {"q_proj": -1}}, "lora_alpha -1"),
        ({"use_dora": True}, "lora_magnitude_vector for 0 of its 14 layers"),
    ],
)
def test_a_foreign_adapter_that_does_not_fit_is_refused(tmp_path, registry, base_folder, changes, said):
    folder = foreign_lora(tmp_path, base_folder, **changes)
    with pytest.raises(AdapterError, match=said):
        import_adapter(registry, str(base_folder), folder, "reader")
    assert registry.names() == []


@pytest.mark.parametrize("method", [Method.LORA, Method.DORA, Method.RSLORA, Method.PISSA])
def test_an_exported_adapter_is_imported_again(tmp_path, registry, base_folder, method):
    adapter = add_random(registry, base_folder, method)
    export_adapter(adapter, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(base_folder)
    (tmp_path / "out" / "adapter_config.json").write_text(json.dumps(config))
    again = import_adapter(registry, str(base_folder), tmp_path / "out", "reader")
    torch.testing.assert_close(
        served_logits(registry, base_folder, again.key), served_logits(registry, base_folder, adapter.key)
    )


def test_magnitudes_without_dora_are_refused(tmp_path, registry, base_folder):
    export_adapter(add_random(registry, base_folder, Method.DORA), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    changes = {"base_model_name_or_path": str(base_folder), "use_dora": False}
    (tmp_path / "out" / "adapter_config.json").write_text(json.dumps(config | changes))
    with pytest.raises(AdapterError, match="LoRA none"):
        import_adapter(registry, str(base_folder), tmp_path / "out", "reader")


def test_pickled_weights_are_refused_without_being_opened(tmp_path, registry, base_folder):
    folder = foreign_lora(tmp_path, base_folder)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(AdapterError, match="can run code"):
        import_adapter(registry, str(base_folder), folder, "reader")


def test_weights_that_are_no_numbers_are_refused(tmp_path, registry, base_folder):
    folder = foreign_lora(tmp_path, base_folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="NaN"):
        import_adapter(registry, str(base_folder), folder, "reader")


def test_half_a_file_is_refused(tmp_path, registry, base_folder):
    folder = foreign_lora(tmp_path, base_folder)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(AdapterError, match="not a whole safetensors file"):
        import_adapter(registry, str(base_folder), folder, "reader")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("base_model.model.model.layers.7.mlp.up_proj.lora_A.weight", (4, 32)),
        ("base_model.model.model.layers.0.mlp.up_proj.lora_A.weight", (4, 33)),
        ("base_model.model.model.layers.0.mlp.up_proj.lora_A.weight", (300, 32)),
        ("base_model.model.model.layers.0.mlp.up_proj.lora_A.weight", (32,)),
        ("base_model.model.model.embed_tokens.lora_embedding_A", (4, 32)),
    ],
)
def test_tensors_for_layers_that_the_base_model_has_not_are_refused(
    tmp_path, registry, base_folder, name, shape
):
    folder = foreign_lora(tmp_path, base_folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors[name] = torch.zeros(shape)
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="fits no linear layer"):
        import_adapter(registry, str(base_folder), folder, "reader")


def test_half_a_pair_of_tensors_is_refused(tmp_path, registry, base_folder):
    folder = foreign_lora(tmp_path, base_folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    del tensors[next(key for key in tensors if "lora_B" in key)]
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="lacks its other half"):
        import_adapter(registry, str(base_folder), folder, "reader")


def test_an_adapter_is_merged_into_its_own_base_model_only(tmp_path, registry, base_folder):
    adapter = import_adapter(registry, str(base_folder), foreign_lora(tmp_path, base_folder), "reader")
    other = tmp_path / "other"
    shutil.copytree(base_folder, other)
    tensors = load_file(other / "model.safetensors")
    next(iter(tensors.values())).add_(0.1)
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(AdapterError, match="was trained for base model"):
        merge_adapter(adapter, str(other), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_an_adapter_of_another_base_model_is_not_served(registry, base_folder):
    adapter = add_random(registry, base_folder, Method.IA3)
    base = replace(load_base(str(base_folder), "float32"), hash="other")
    with pytest.raises(AdapterError, match="was trained for base model"):
        ResidentAdapters(base, registry).use(adapter.key)
