import pytest
import torch
from tiny import tiny_base

from tuner.decoding import DecodingCancelled, Sampling, decode

BASE = tiny_base()


def ask(prompts, sampling, **options):
    ids = [BASE.tokenizer(p, add_special_tokens=False)["input_ids"] for p in prompts]
    return decode(BASE.model, BASE.tokenizer, ids, sampling, **options)


def test_greedy_equals_transformers_generate():
    ids = BASE.tokenizer("hello there", return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        expected = BASE.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
        )
    text = BASE.tokenizer.decode(expected[0, ids.shape[1] :], skip_special_tokens=True).strip()
    assert ask(["hello there"], [Sampling(12)])[0].text == text


def test_batch_equals_one_at_a_time_and_keeps_order():
    prompts = ["a", "a much longer prompt than the first", "medium one", "bb"]
    sampling = [Sampling(n) for n in (3, 9, 6, 12)]
    together = ask(prompts, sampling, max_batch_tokens=64)
    assert together == [ask([p], [s])[0] for p, s in zip(prompts, sampling, strict=True)]
    assert [d.completion_tokens <= s.max_new_tokens for d, s in zip(together, sampling, strict=True)] == [
        True
    ] * 4


def test_shared_prefix_changes_no_answer():
    prefix = "These solved examples stand before every question. " * 2
    prompts = [prefix + end for end in ("a", "a longer question", "b", "")] + [prefix[:40] + "!"]
    sampling = [Sampling(8)] * len(prompts)
    assert ask(prompts, sampling) == [ask([p], [Sampling(8)])[0] for p in prompts]


def test_seeded_sampling_repeats_and_seeds_differ():
    one, same, other = (ask(["abc"], [Sampling(12, temperature=1.0, seed=s)])[0].text for s in (1, 1, 2))
    assert one == same != other


def test_tiny_top_p_is_greedy():
    greedy = ask(["abc"], [Sampling(8)])[0].text
    assert ask(["abc"], [Sampling(8, temperature=1.0, top_p=1e-9, seed=3)])[0].text == greedy


def test_stop_string_ends_and_is_left_out():
    full = ask(["abc"], [Sampling(12)])[0].text
    stop = full[3:5]
    stopped = ask(["abc"], [Sampling(12, stop=(stop,))])[0]
    assert stopped.text == full[: full.index(stop)].strip()
    assert stopped.finish_reason == "stop"


def test_cancelled_decoding_raises():
    with pytest.raises(DecodingCancelled):
        ask(["abc"], [Sampling(12)], cancelled=lambda: True)
