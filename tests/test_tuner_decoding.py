import pytest
import torch
from tiny import tiny_base

from tuner.decoding import DecodingCancelled, Row, RunningBatch, Sampling, decode, finished, text_so_far

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


@pytest.mark.parametrize("start", ["", "These instructions stand before each of the questions. "])
@pytest.mark.parametrize("max_batch_tokens", [None, 200, 600])
def test_rows_that_are_read_in_groups_and_join_a_running_batch_are_answered_as_alone(
    monkeypatch, start, max_batch_tokens
):
    monkeypatch.setattr("tuner.reader._TOKENS_AT_ONCE", 60)
    prompts = [start + "word " * n + "?" for n in (9, 1, 4, 12, 2, 7, 3, 10, 1, 5, 8, 6)]
    sampling = [Sampling(n) for n in (2, 9, 14, 3, 7, 1, 12, 5, 16, 4, 6, 10)]
    together = ask(prompts, sampling, max_batch_tokens=max_batch_tokens)
    assert together == [ask([p], [s])[0] for p, s in zip(prompts, sampling, strict=True)]


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


def test_an_answer_may_go_on_where_the_model_would_end_it(monkeypatch):
    usual = ask(["abc"], [Sampling(12, logprobs=0)])[0]
    ends = {usual.logprobs[4].token}
    monkeypatch.setattr("tuner.decoding._stop_ids", lambda model, tokenizer: ends)
    assert ask(["abc"], [Sampling(12)])[0].completion_tokens <= 4
    whole = ask(["abc"], [Sampling(12, ignore_eos=True)])[0]
    assert (whole.completion_tokens, whole.text, whole.finish_reason) == (12, usual.text, "length")


def test_cancelled_decoding_raises():
    with pytest.raises(DecodingCancelled):
        ask(["abc"], [Sampling(12)], cancelled=lambda: True)


def row(prompt, sampling):
    return Row(BASE.tokenizer(prompt, add_special_tokens=False)["input_ids"], sampling)


def test_rows_that_join_and_leave_a_running_batch_say_what_they_say_alone():
    prompts = ["a", "a much longer prompt than the first, with many more words in it", "medium one", "bb"]
    sampling = [Sampling(n) for n in (20, 9, 14, 6)]
    rows = [row(p, s) for p, s in zip(prompts, sampling, strict=True)]
    batch = RunningBatch(BASE.model, BASE.tokenizer)
    for newcomer in rows:
        batch.admit([newcomer])
        batch.step()
        batch.step()
    while batch.rows:
        batch.step()
    alone = [ask([p], [s])[0] for p, s in zip(prompts, sampling, strict=True)]
    assert [finished(r, BASE.tokenizer) for r in rows] == alone


def test_cancelled_row_leaves_and_the_others_go_on_unchanged():
    rows = [row(p, Sampling(12)) for p in ("a", "medium one", "abc")]
    batch = RunningBatch(BASE.model, BASE.tokenizer)
    batch.admit(rows)
    batch.step()
    rows[1].cancelled = True
    while batch.rows:
        batch.step()
    assert len(rows[1].tokens) == 2
    assert [finished(rows[i], BASE.tokenizer).text for i in (0, 2)] == [
        ask([p], [Sampling(12)])[0].text for p in ("a", "abc")
    ]


def test_padding_of_rows_that_have_left_is_cut_off():
    long, short = row("long " * 40, Sampling(2)), row("a", Sampling(12))
    batch = RunningBatch(BASE.model, BASE.tokenizer)
    batch.admit([long])
    batch.admit([short])
    while batch.rows:
        batch.step()
    assert batch._reader.width < 60
    assert finished(short, BASE.tokenizer) == ask(["a"], [Sampling(12)])[0]


def test_prompts_that_go_on_after_a_kept_prefix_say_what_they_say_without_it():
    start = "These words stand before every question. "
    first, second, third = (row(start + end, Sampling(10)) for end in ("one", "another", "a third, longer"))
    batch = RunningBatch(BASE.model, BASE.tokenizer)
    prefix = batch.admit([first], keep=len(start))
    assert len(prefix.tokens) == len(start)
    assert prefix.nbytes == sum(k.nbytes * 2 for k, _ in prefix.layers)
    batch.admit([second, third], prefix)
    while batch.rows:
        batch.step()
    for one, end in ((first, "one"), (second, "another"), (third, "a third, longer")):
        assert finished(one, BASE.tokenizer) == ask([start + end], [Sampling(10)])[0]


def test_text_so_far_is_never_taken_back():
    for stop in ((), ("xyz",), ("q!", "zz9")):
        one = row("abc", Sampling(30, temperature=1.0, seed=5, stop=stop))
        batch = RunningBatch(BASE.model, BASE.tokenizer)
        batch.admit([one])
        shown = []
        while batch.rows:
            shown.append(text_so_far(one, BASE.tokenizer))
            batch.step()
        final = finished(one, BASE.tokenizer).text
        assert len(shown) > 5
        assert all(final.startswith(text) for text in shown)


def test_start_of_a_stop_string_is_held_back():
    one = row("abc", Sampling(9, stop=("END.",)))
    one.tokens = BASE.tokenizer("The EN", add_special_tokens=False)["input_ids"]
    assert text_so_far(one, BASE.tokenizer) == "The"
    one.tokens = BASE.tokenizer("The ENx", add_special_tokens=False)["input_ids"]
    assert text_so_far(one, BASE.tokenizer) == "The ENx"


def test_log_probabilities_are_those_of_the_model():
    decoded = ask(["abc"], [Sampling(4, logprobs=2)])[0]
    ids = BASE.tokenizer("abc", return_tensors="pt", add_special_tokens=False)["input_ids"]
    chosen = torch.tensor([[place.token for place in decoded.logprobs]])
    with torch.inference_mode():
        logits = BASE.model(torch.cat([ids, chosen], dim=1)).logits[0, ids.shape[1] - 1 : -1]
    expected = logits.log_softmax(-1).gather(1, chosen[0][:, None])[:, 0]
    assert torch.allclose(torch.tensor([place.logprob for place in decoded.logprobs]), expected, atol=1e-4)
    assert [len(place.likeliest) for place in decoded.logprobs] == [2] * 4
