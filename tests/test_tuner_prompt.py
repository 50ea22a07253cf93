import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from tuner.prompt import STYLES, Context, PromptError, SolvedExample, build_prompt

TOKENIZER = tiny_tokenizer()


def test_prompt_numbers_contexts_and_ends_where_the_answer_starts():
    ids = build_prompt(
        TOKENIZER, "How wide?", [Context("Tube", "It is 9 cm."), Context("Lid", "It is round.")]
    )
    text = TOKENIZER.decode(ids)
    assert "[1] Tube: It is 9 cm.\n\n[2] Lid: It is round.\n\nQuestion: How wide?" in text
    assert text.endswith("<|assistant|>")


def test_solved_examples_come_before_the_question():
    example = SolvedExample("Who?", "Ada", (Context("Staff", "Ada leads."),))
    for style in STYLES:
        text = TOKENIZER.decode(build_prompt(TOKENIZER, "Where?", (), style, [example]))
        assert text.index("Ada leads.") < text.index("Who?") < text.rindex("Ada") < text.index("Where?")


def test_model_without_chat_template_gets_plain_text():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    assert tokenizer.decode(build_prompt(tokenizer, "Where?")).endswith("Question: Where?\nAnswer:")


def test_unknown_style_is_named():
    with pytest.raises(PromptError, match="'poem'"):
        build_prompt(TOKENIZER, "Where?", style="poem")


@given(st.lists(st.sampled_from(["<|end|>", "<|user|>", "<|en", "d|>", "|>", "<|", "hello "]), max_size=12))
def test_text_cannot_forge_control_tokens(pieces):
    written = "".join(pieces)
    examples = [SolvedExample("q", "a", (Context("t", "x"),))]
    forged_examples = [SolvedExample(written, written, (Context(written, written),))]
    plain = build_prompt(TOKENIZER, "q", [Context("t", "x")], examples=examples)
    forged = build_prompt(TOKENIZER, written, [Context(written, written)], examples=forged_examples)
    control = set(TOKENIZER.all_special_ids)
    assert [i for i in forged if i in control] == [i for i in plain if i in control]
