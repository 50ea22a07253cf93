"""Finding and loading the base model."""

import io
import logging
import sys

import gguf
import numpy as np
import pytest
import torch
from huggingface_hub.utils import enable_progress_bars, tqdm
from tiny import tiny_base

from tuner import base_model
from tuner.base_model import load_base

REF = "bundled:smollm2-135m-instruct"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """A tiny model where the bundled one would be, still packed as GGUF."""
    base = tiny_base()
    file = tmp_path / "wheel" / "tiny.gguf"
    file.parent.mkdir()
    write_gguf(file, base)
    monkeypatch.setattr(base_model, "_find_gguf", lambda *_: file)
    monkeypatch.setenv("OPENBOOK_CACHE", str(tmp_path / "cache"))
    return base


def write_gguf(file, base):
    config = base.model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    vocabulary = base.tokenizer.get_vocab()
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    writer.add_token_list([*tokens[:-1], "ab"])  # a file without merges cannot be written
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(base.tokenizer.eos_token_id)
    writer.add_bos_token_id(base.tokenizer.eos_token_id)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in base.model.state_dict().items():
        stem, _, ending = name.rpartition(".")
        data = tensor.numpy()
        if stem.endswith(("q_proj", "k_proj")):
            heads = config.num_attention_heads if "q_proj" in stem else config.num_key_value_heads
            data = as_in_gguf(data, heads)
        writer.add_tensor(f"{names.get_name(stem)}.{ending}", np.ascontiguousarray(data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def as_in_gguf(weights, heads):
    """GGUF keeps the two halves of each head that rotary embeddings turn interleaved."""
    halves = weights.reshape(heads, 2, weights.shape[0] // heads // 2, weights.shape[1])
    return halves.swapaxes(1, 2).reshape(weights.shape)


def test_the_packed_model_is_unpacked_once_to_the_same_weights(packed, monkeypatch):
    first = load_base(REF, "float32")
    monkeypatch.setattr(base_model, "_dequantise", lambda *_: pytest.fail("unpacked again"))
    again = load_base(REF, "float32")
    assert first.hash == again.hash
    for name, tensor in packed.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], tensor)


def test_unpacking_leaves_plain_lines_in_a_log(packed, capsys, caplog):
    caplog.set_level(logging.INFO, "openbook.tuner")
    load_base(REF, "float32")
    assert f"unpacking {REF}" in caplog.text
    written = capsys.readouterr()
    assert written.out == ""
    assert "\r" not in written.err
    assert [line.partition(": ")[0] for line in written.err.splitlines()] == [f"unpacking {REF}"]


def test_unpacking_shows_one_bar_on_a_terminal(packed, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    load_base(REF, "float32")
    assert f"unpacking {REF}" in terminal.getvalue()
    assert "Converting" not in terminal.getvalue()


@pytest.mark.parametrize(("stream", "drawn"), [(io.StringIO, False), (Terminal, True)])
def test_fetching_draws_bars_on_a_terminal_only(tmp_path, monkeypatch, stream, drawn):
    base = tiny_base()
    base.model.save_pretrained(tmp_path)
    base.tokenizer.save_pretrained(tmp_path)

    def fetch(_ref, **_):
        with tqdm(range(3), desc="Fetching 3 files") as files:
            list(files)
        return str(tmp_path)

    monkeypatch.setattr(base_model, "snapshot_download", fetch)
    monkeypatch.setattr(sys, "stderr", stream())
    enable_progress_bars()
    load_base("someone/tiny", "float32")
    assert ("Fetching" in sys.stderr.getvalue()) is drawn
