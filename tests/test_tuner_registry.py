import json
import os
import shutil

import pytest
from tiny import tiny_adapter, tiny_base, tiny_manifest

from indexer.corpus import Question, Split
from tuner.gates import Gates
from tuner.registry import AdapterError, Registry, check_adapter
from tuner.trained_on import TrainedOn, question_hash, refuse_seen_questions, staleness

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


def test_what_killed_processes_left_is_removed_and_what_is_being_written_is_not(tmp_path):
    home = tmp_path / "mixed"
    abandoned, under_way, deleted = home / ".new.a", home / ".new.b", home / ".1.gone"
    for folder in (abandoned, under_way, deleted):
        folder.mkdir(parents=True)
        (folder / "adapter_model.safetensors").touch()
    os.utime(abandoned, (0, 0))
    tiny_adapter(tmp_path, BASE)
    assert [folder.exists() for folder in (abandoned, under_way, deleted)] == [False, True, False]


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


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"version": "x"}', '{"version": null}'])
def test_a_damaged_pointer_promotes_nothing_and_says_how_to_go_on(tmp_path, content):
    tiny_adapter(tmp_path, BASE)
    (tmp_path / "mixed" / "promoted.json").write_text(content)
    registry = Registry(tmp_path)
    assert registry.promoted("mixed") is None
    with pytest.raises(AdapterError, match=r"openbook adapters promote mixed@1"):
        registry.resolve("mixed")
    registry.promote("mixed", 1)
    assert registry.resolve("mixed").key == "mixed@1"


def test_a_version_with_an_unreadable_manifest_can_be_deleted(tmp_path):
    tiny_adapter(tmp_path, BASE)
    damaged, registry = tiny_adapter(tmp_path, BASE, seed=2), Registry(tmp_path)
    registry.promote("mixed", 1)
    (damaged.path / "manifest.json").write_text("{")
    with pytest.raises(AdapterError, match=r"adapters delete mixed@2"):
        registry.resolve("mixed@2")
    assert registry.delete("mixed@2") == "mixed@2"
    assert registry.versions("mixed") == [1]


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


def test_the_number_of_a_deleted_version_is_not_given_again(tmp_path):
    tiny_adapter(tmp_path, BASE, seed=1)
    second = tiny_adapter(tmp_path, BASE, seed=2)
    registry = Registry(tmp_path)
    registry.promote("mixed", 1)
    assert registry.delete(second.key) == "mixed@2"
    assert registry.versions("mixed") == [1]
    assert not second.path.exists()
    assert tiny_adapter(tmp_path, BASE, seed=3).key == "mixed@3"


def test_the_promoted_version_is_not_deleted(tmp_path):
    adapter = tiny_adapter(tmp_path, BASE)
    with pytest.raises(AdapterError, match="promoted and the only version"):
        Registry(tmp_path).delete(adapter.key)
    assert Registry(tmp_path).versions("mixed") == [1]


def test_two_processes_that_publish_at_once_get_two_versions(tmp_path, monkeypatch):
    registry = Registry(tmp_path)
    tiny_adapter(tmp_path, BASE, seed=1)

    def publish_meanwhile(folder):
        shutil.copytree(tmp_path / "mixed" / "1", folder, dirs_exist_ok=True)
        if registry.versions("mixed") == [1]:
            tiny_adapter(tmp_path, BASE, seed=2)

    assert registry.add("mixed", publish_meanwhile, tiny_manifest(BASE)).key == "mixed@3"
    assert registry.versions("mixed") == [1, 2, 3]


def test_gates_are_kept_with_the_adapter(tmp_path):
    adapter, registry = tiny_adapter(tmp_path, BASE), Registry(tmp_path)
    assert registry.gates(adapter) is None
    registry.record_gates(
        adapter, Gates(("tuned is worse",), {"tuned - base": {"difference": -0.1}}, "asked")
    )
    assert registry.gates(adapter) == Gates(
        ("tuned is worse",), {"tuned - base": {"difference": -0.1}}, "asked"
    )


def seen(adapter, documents, *questions):
    TrainedOn(documents, {q.id: question_hash(q) for q in questions}).write(adapter.path)
    return adapter


def question(id_, text):
    return Question(id_, text, ("x",), ("d",), Split.TEST)


def test_changed_documents_make_an_adapter_stale(tmp_path):
    adapter = seen(tiny_adapter(tmp_path, BASE), {"a.md": "1", "b.md": "1", "c.md": "1"})
    found = staleness(adapter, {"a.md": "1", "b.md": "2", "d.md": "1"})
    assert (found.changed, found.removed, found.added) == (("b.md",), ("c.md",), ("d.md",))
    assert found.describe(12) == (
        "trained on generation 12; 1 document changed since (b.md), 1 document removed since (c.md), "
        "1 document added since (d.md); these facts may be old"
    )
    assert staleness(adapter, {"a.md": "1", "b.md": "1", "c.md": "1"}).describe(12) == ""


def test_what_an_adapter_from_elsewhere_has_seen_is_not_known(tmp_path):
    assert staleness(tiny_adapter(tmp_path, BASE), {"a.md": "1"}) is None


def test_test_questions_that_an_adapter_was_trained_on_are_refused(tmp_path):
    adapter = seen(tiny_adapter(tmp_path, BASE), {}, question("q1", "How wide is the tube?"))
    refuse_seen_questions(adapter, [question("q2", "How high is the tower?")])
    with pytest.raises(AdapterError, match=r"mixed@1 was trained on 1 of the test questions \(t9\)"):
        refuse_seen_questions(adapter, [question("t9", "HOW WIDE is the tube")])


def test_an_adapter_from_elsewhere_is_let_pass_with_a_warning(tmp_path, caplog):
    refuse_seen_questions(tiny_adapter(tmp_path, BASE), [question("q1", "How wide is the tube?")])
    assert caplog.messages == [
        "adapter mixed@1: what it was trained on is not known, so it may have seen test questions"
    ]
