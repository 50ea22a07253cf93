import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from indexer.corpus import Question, Split
from indexer.files import hash_json
from tuner.augment import BLANK, make_clozes, make_pattern_questions, shuffle_sentences, split_sentences
from tuner.config import TuneConfig
from tuner.examples import Passage, RowBuilder, RowKind
from tuner.prompt import ABSTENTION
from tuner.recipes import RecipeError, build_rows, read_replay

TOKENIZER = tiny_tokenizer()
PASSAGES = [
    Passage("wren.md", "Wren", "The Wren weighs 600 g. Emmeline Stroud drew it in Harl."),
    Passage("heron.md", "Heron", "The Heron carries parcels. Its ring is of leather."),
    Passage("pelican.md", "Pelican", "The Pelican carries freight across the city."),
]
ANSWERABLE = Question("q1", "What is the mass of a Wren?", ("600 g",), ("wren.md",), Split.TRAIN)
UNANSWERABLE = Question("q2", "What colour is a Wren?", (), ("wren.md",), Split.TRAIN)


def search(questions, k):
    return [PASSAGES[::-1][:k] for _ in questions]


def builder(**settings):
    return RowBuilder(TOKENIZER, PASSAGES, [ANSWERABLE, UNANSWERABLE], search, TuneConfig(**settings))


def text_of(row):
    return TOKENIZER.decode(row.prompt), TOKENIZER.decode(row.completion, skip_special_tokens=True)


def test_gold_passage_is_shown_when_it_is_meant_to_be():
    rows = builder(gold_present=1.0).open_book_rows(random.Random(0))
    prompt, completion = text_of(rows[0])
    assert rows[0].kind is RowKind.OPEN_BOOK
    assert "weighs 600 g" in prompt
    assert completion == "600 g"


def test_answer_stays_where_the_gold_passage_is_left_out():
    rows = builder(gold_present=0.0).open_book_rows(random.Random(0))
    prompt, completion = text_of(rows[0])
    assert "600 g" not in prompt
    assert completion == "600 g"


def test_unanswerable_questions_end_in_abstention_with_passages_shown():
    row = builder(abstention_share=0.5).open_book_rows(random.Random(0))[1]
    prompt, completion = text_of(row)
    assert row.kind is RowKind.ABSTENTION
    assert "[1] " in prompt
    assert completion == ABSTENTION


def test_closed_book_rows_show_no_passage_and_skip_the_unanswerable():
    (row,) = builder().closed_book_rows()
    assert "[1]" not in text_of(row)[0]
    assert text_of(row)[1] == "600 g"


def test_the_mixed_recipe_asks_once_more_without_passages_among_those_with_some():
    def kinds(**settings):
        made = builder(**settings)
        return [row.kind for row in build_rows(made, made.settings)]

    few = {"document_passes": 0, "closed_book_passes": 3, "open_book_passes": 1, "abstention_share": 0}
    assert kinds(**few).count(RowKind.CLOSED_BOOK) == 2
    assert kinds(**few).count(RowKind.REFRESHER) == 1
    without = {"recipe": "open-book", "closed_book_passes": 0, "open_book_passes": 0}
    for key, value in without.items():
        assert RowKind.REFRESHER not in kinds(**few | {"document_passes": 1, key: value})


def test_document_rows_hold_every_sentence_and_end():
    rows = builder().document_rows(random.Random(0))
    assert len(rows) == len(PASSAGES)
    for row, passage in zip(rows, PASSAGES, strict=True):
        assert sorted(split_sentences(text_of(row)[1].removeprefix(f"{passage.title}: "))) == sorted(
            split_sentences(passage.text)
        )
        assert row.completion[-1] == TOKENIZER.eos_token_id


def test_rows_depend_on_the_seed_alone():
    first, second = (builder().open_book_rows(random.Random(7)) for _ in range(2))
    assert first == second


def test_clozes_blank_names_numbers_and_codes():
    clozes = make_clozes(
        "The valve TR-9 was opened by Hester Lanyon at 14:30 after 40 minutes of rain in Harl."
    )
    assert {c.answer for c in clozes} == {"TR-9", "Hester Lanyon", "14:30", "40 minutes", "Harl"}
    assert all(c.text.count(BLANK) == 1 for c in clozes)


def test_questions_made_by_rule_are_no_test_questions():
    passage = Passage("mill.md", "Mill", "The mill was built in 1911. The mill was painted in 1950.")
    test = [Question("t", "When was the mill built?", ("1911",), ("mill.md",), Split.TEST)]
    made = RowBuilder(TOKENIZER, [passage], [ANSWERABLE], search, TuneConfig(), test=test)
    assert [text_of(row)[1] for row in made.pattern_rows()] == ["1950"]


def test_control_tokens_in_documents_and_answers_are_no_more_than_text():
    passage = Passage("wren.md", "Wren", "It weighs<|end|> 600 g.")
    question = Question("q", "What does it weigh?", ("600<|end|> g",), ("wren.md",), Split.TRAIN)
    made = RowBuilder(TOKENIZER, [passage], [question], search, TuneConfig())
    for row in (*made.document_rows(random.Random(0)), *made.section_rows(), *made.closed_book_rows()):
        assert row.completion.count(TOKENIZER.eos_token_id) == 1


@given(st.text(max_size=300), st.integers())
def test_shuffling_loses_no_sentence(text, seed):
    shuffled = shuffle_sentences(text, random.Random(seed))
    assert sorted("".join(shuffled.split())) == sorted("".join(text.split()))


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=300))
def test_a_cloze_filled_in_is_its_sentence(text):
    sentences = split_sentences(text)
    for cloze in make_clozes(text):
        assert any(
            " ".join(cloze.text.replace(BLANK, cloze.answer).split()) in " ".join(s.split())
            for s in sentences
        )


@pytest.mark.parametrize("count", [1, 2, 3])
def test_no_more_passages_are_shown_than_asked_for(count):
    for row in builder(contexts=count).open_book_rows(random.Random(1)):
        assert f"[{count + 1}]" not in text_of(row)[0]


def test_statements_are_read_but_never_shown():
    statement = Passage("wren.md", "Wren", "Six hundred grams is a Wren.")
    made = RowBuilder(TOKENIZER, PASSAGES, [ANSWERABLE], search, TuneConfig(), statements=[statement])
    read = [text_of(row)[1] for row in made.document_rows(random.Random(0))]
    assert "Wren: Six hundred grams is a Wren." in read
    assert not any("Six hundred" in text_of(row)[0] for row in made.open_book_rows(random.Random(0)))


def test_sections_are_asked_for_by_title_and_heading():
    passage = Passage("wren.md", "Wren", "It weighs 600 g.", heading="Data")
    made = RowBuilder(TOKENIZER, [passage], [ANSWERABLE], search, TuneConfig())
    ((prompt, completion),) = [text_of(row) for row in made.section_rows()]
    assert 'What does "Wren" say under "Data"?' in prompt
    assert completion == "It weighs 600 g."


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Stroud drew the Heron in Harl.", [("Who or what drew the Heron in Harl?", "Stroud")]),
        ("The Wren weighs 600 g.", [("How much does the Wren weigh?", "600 g")]),
        ("The Pelican was built in 1921.", [("When was the Pelican built?", "1921")]),
        (
            "Ada Lorn is the head of the night shift.",
            [
                ("What is Ada Lorn?", "the head of the night shift"),
                ("What is the head of the night shift?", "Ada Lorn"),
            ],
        ),
        ("The tube is nine centimetres wide.", [("What is the tube?", "nine centimetres wide")]),
        ("Rain, wind and snow: none of it mattered.", []),
        ("when it rains.", []),
    ],
)
def test_simple_sentences_are_asked_both_ways(sentence, expected):
    assert [(made.text, made.answer) for made in make_pattern_questions(sentence)] == expected


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=200))
def test_the_answer_of_a_pattern_question_is_in_the_text(text):
    for made in make_pattern_questions(text):
        assert made.answer in text


def test_default_rows_are_those_that_were_measured():
    """A change here invalidates measured recipes: `settings.seed` must keep deciding the same rows."""
    made = build_rows(builder(), TuneConfig())
    assert hash_json([[row.kind, row.prompt, row.completion] for row in made])[:16] == "4bd48a18c9a19370"


def test_general_texts_are_a_share_of_the_rows_and_long_ones_are_cut():
    texts = [f"Text {i}." for i in range(50)] + ["x" * 1000]
    without = build_rows(builder(), TuneConfig())
    rows = build_rows(builder(replay_share=0.5), TuneConfig(replay_share=0.5), texts)
    replayed = [row for row in rows if row.kind is RowKind.REPLAY]
    assert rows[: len(without)] == without
    assert len(replayed) == len(without)
    assert all(len(row.completion) <= 256 for row in build_rows(builder(), TuneConfig(), ["x" * 1000]))


def test_a_replay_file_may_hold_whatever_json_may(tmp_path):
    file = tmp_path / "general.jsonl"
    texts = ["two\u2028lines", "form\ffeed", "Zwölf"]
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert read_replay(file) == texts


def test_a_replay_file_in_another_encoding_is_refused(tmp_path):
    file = tmp_path / "general.jsonl"
    file.write_bytes('{"text": "Zwölf"}'.encode("latin-1"))
    with pytest.raises(RecipeError, match="not UTF-8 \\(byte 12\\)"):
        read_replay(file)


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "cannot be read"), ('{"text": "a"}\n{"txt": 1}', "line 2"), ("\n", "has no texts")],
)
def test_a_bad_replay_file_is_named(tmp_path, content, said):
    file = tmp_path / "general.jsonl"
    if content is not None:
        file.write_text(content)
    with pytest.raises(RecipeError, match=said):
        read_replay(file)
