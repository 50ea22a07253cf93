import json

import pytest
from tiny import tiny_adapter, tiny_base, tiny_manifest

from tuner.registry import AdapterError, Registry, check_adapter

BASE = tiny_base()


def test_versions_grow_and_promotion_moves_the_pointer(tmp_path):
    first, second = tiny_adapter(tmp_path, BASE, seed=1), tiny_adapter(tmp_path, BASE, seed=2)
    registry = Registry(tmp_path)
    assert registry.versions("mixed") == [1, 2]
    assert registry.resolve("mixed").key == second.key == "mixed@2"
    registry.promote("mixed", 1)
    assert registry.resolve("mixed").key == first.key == "mixed@1"


def test_failed_save_leaves_no_version(tmp_path):
    def explode(folder):
        (folder / "adapter_config.json").write_text("{}")
        raise OSError("disk full")

    registry = Registry(tmp_path)
    with pytest.raises(OSError, match="disk full"):
        registry.add("mixed", explode, tiny_manifest(BASE))
    assert registry.names() == []
    assert list((tmp_path / "mixed").iterdir()) == []


@pytest.mark.parametrize(
    ("ref", "said"),
    [("other", "known: mixed"), ("mixed@9", "no version '9'"), ("../mixed", "unknown adapter")],
)
def test_unknown_adapter_is_named_with_what_is_known(tmp_path, ref, said):
    tiny_adapter(tmp_path, BASE)
    with pytest.raises(AdapterError, match=said):
        Registry(tmp_path).resolve(ref)


def test_adapter_of_another_base_model_is_refused(tmp_path):
    adapter = tiny_adapter(tmp_path, BASE)
    check_adapter(adapter, BASE.name, BASE.hash)
    with pytest.raises(AdapterError, match="trained for base model 'tiny'"):
        check_adapter(adapter, "other", "other-hash")


def test_damaged_weights_are_refused(tmp_path):
    adapter = tiny_adapter(tmp_path, BASE)
    weights = adapter.path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00\x01")
    with pytest.raises(AdapterError, match="damaged"):
        check_adapter(adapter, BASE.name, BASE.hash)


def test_unreadable_manifest_is_reported(tmp_path):
    adapter = tiny_adapter(tmp_path, BASE)
    (adapter.path / "manifest.json").write_text(json.dumps({"recipe": "mixed"}))
    with pytest.raises(AdapterError, match=r"manifest\.json"):
        Registry(tmp_path).resolve("mixed")


def test_adapter_without_safetensors_is_refused(tmp_path):
    def write(folder):
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.bin").write_bytes(b"x")

    with pytest.raises(AdapterError, match="safetensors"):
        Registry(tmp_path).add("mixed", write, tiny_manifest(BASE))


def test_adapter_without_weights_is_refused(tmp_path):
    from safetensors.torch import save_file

    def write(folder):
        (folder / "adapter_config.json").write_text("{}")
        save_file({}, folder / "adapter_model.safetensors")

    with pytest.raises(AdapterError, match="no weights"):
        Registry(tmp_path).add("mixed", write, tiny_manifest(BASE))
