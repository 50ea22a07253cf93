"""Documents cut into chunks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.chunking import Span, chunk, embedding_text, sentence_spans
from indexer.corpus import Document
from tests.fakes import HashEncoder

count_tokens = HashEncoder().count_tokens


def cut(text: str, max_tokens: int = 32) -> list[tuple[str, str]]:
    document = Document("d", "Guide", text)
    return [(span.heading, text[span.start : span.end]) for span in chunk(document, count_tokens, max_tokens)]


def test_headings_become_the_path_and_the_title_is_not_repeated() -> None:
    text = "Before.\n\n# Guide\n\nIntro.\n\n## Care ##\nWipe.\n\n### Daily\n\nDry.\n\n## Sizes\n\nSmall."
    assert cut(text) == [
        ("", "Before."),
        ("", "Intro."),
        ("Care", "Wipe."),
        ("Care > Daily", "Dry."),
        ("Sizes", "Small."),
    ]


def test_small_paragraphs_under_one_heading_are_merged_up_to_the_limit() -> None:
    assert cut("One two.\n\nThree four.\n\nFive six seven.", max_tokens=6) == [
        ("", "One two.\n\nThree four."),
        ("", "Five six seven."),
    ]


def test_long_paragraphs_are_cut_between_sentences() -> None:
    text = 'It is 3.5 mm wide. He said "no." Then, e.g. later, it broke. All was well.'
    assert cut(text, max_tokens=12) == [
        ("", "It is 3.5 mm wide."),
        ("", 'He said "no."'),
        ("", "Then, e.g. later, it broke."),
        ("", "All was well."),
    ]


def test_long_tables_are_cut_between_rows() -> None:
    rows = [f"| row {n} | value {n} |" for n in range(8)]
    for _, text in cut("\n".join(rows), max_tokens=16):
        assert set(text.split("\n")) <= set(rows)


def test_comments_in_code_blocks_are_not_headings() -> None:
    assert cut("## Run\n\n```sh\n# not a heading\nmake\n```\n") == [
        ("Run", "```sh\n# not a heading\nmake\n```")
    ]


def test_a_heading_with_nothing_below_it_is_a_chunk() -> None:
    assert cut("# Guide\n\n## Never open the lid\n\n## Care\n\nWipe.\n\n## End") == [
        ("", "## Never open the lid"),
        ("Care", "Wipe."),
        ("", "## End"),
    ]


def test_a_word_that_the_tokenizer_counts_as_one_is_still_cut() -> None:
    assert max(len(text) for _, text in cut("x" * 5000)) <= 32 * 12


def test_title_and_headings_are_embedded_with_the_text() -> None:
    document = Document("d", "Guide", "## Care\n\nWipe.")
    (span,) = chunk(document, count_tokens, 32)
    assert embedding_text(document, span).text == "Guide > Care\nWipe."


LINES = st.lists(
    st.one_of(
        st.sampled_from(
            ["", "", "# Guide", "## Part", "### Deep part", "```", "| a | b |", "- item one. Two!"]
        ),
        st.text(alphabet="ab .!?\n\t\u3002\u2028\u00e9#`", max_size=80),
        st.lists(st.sampled_from(["Word", "word", "end.", "3.5", '"yes."', "x" * 40]), max_size=60).map(
            " ".join
        ),
    ),
    max_size=20,
)


@given(LINES, st.integers(1, 40))
def test_chunks_are_ordered_disjoint_trimmed_and_within_the_limit_and_lose_only_headings(
    lines: list[str], max_tokens: int
) -> None:
    text = "\n".join(lines)
    spans = chunk(Document("d", "Guide", text), count_tokens, max_tokens)
    position, outside = 0, []
    for span in spans:
        piece = text[span.start : span.end]
        assert position <= span.start < span.end
        assert piece == piece.strip()
        assert count_tokens(piece) <= max_tokens
        outside.append(text[position : span.start])
        position = span.end
    outside.append(text[position:])
    lost = [line for gap in outside for line in gap.splitlines() if line.strip()]
    assert all(line.startswith("#") for line in lost)
    assert spans or not text.strip()


def overlapping(text: str, max_tokens: int, overlap_tokens: int) -> list[str]:
    spans = chunk(Document("d", "Guide", text), count_tokens, max_tokens, overlap_tokens)
    return [text[span.start : span.end] for span in spans]


def test_overlap_repeats_the_last_whole_sentences_of_the_chunk_before() -> None:
    a, b, c, d, e = (f"This is the sentence {n}." for n in "ABCDE")  # of 6 tokens
    assert overlapping(" ".join([a, b, c, d, e]), 24, 6) == [f"{a} {b}", f"{b} {c} {d} {e}"]
    assert overlapping(" ".join([a, b, c, d, e]), 24, 11) == [f"{a} {b}", f"{b} {c}", f"{c} {d} {e}"]
    assert overlapping(" ".join([a, b, c, d, e]), 24, 12) == [f"{a} {b}", f"{a} {b} {c}", f"{c} {d} {e}"]


def test_overlap_never_crosses_a_heading() -> None:
    assert overlapping("One two.\n\n## Care\n\nThree four.", 8, 4) == ["One two.", "Three four."]


def test_overlap_repeats_words_of_a_sentence_that_is_too_long_and_rows_whole() -> None:
    words = " ".join(f"w{n}" for n in range(12))
    assert overlapping(words, 6, 2) == ["w0 w1 w2", "w1 w2 w3 w4 w5", "w4 w5 w6 w7 w8", "w7 w8 w9 w10 w11"]
    rows = [f"| row {n} |" for n in range(6)]
    assert {row for piece in overlapping("\n".join(rows), 16, 5) for row in piece.split("\n")} == set(rows)


@given(LINES, st.integers(2, 40), st.integers(1, 20))
def test_overlapping_chunks_only_begin_earlier_and_stay_within_both_limits(
    lines: list[str], max_tokens: int, overlap_tokens: int
) -> None:
    overlap_tokens = min(overlap_tokens, max_tokens // 2)
    document = Document("d", "Guide", text := "\n".join(lines))
    plain = chunk(document, count_tokens, max_tokens - overlap_tokens)
    spans = chunk(document, count_tokens, max_tokens, overlap_tokens)
    assert [(span.end, span.heading) for span in spans] == [(span.end, span.heading) for span in plain]
    for before, span, without in zip([plain[0], *plain] if plain else [], spans, plain, strict=False):
        piece = text[span.start : span.end]
        assert piece == piece.strip()
        assert count_tokens(piece) <= max_tokens
        if span.start != without.start:
            assert before.start <= span.start < without.start
            assert before.heading == span.heading
            assert count_tokens(text[span.start : before.end]) <= overlap_tokens


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        (
            "One whole sentence here. Another one follows it.",
            ["One whole sentence here.", "Another one follows it."],
        ),
        ("The list has two items:\n- the first of them\n- the second one", None),
        (
            "A line that is\nwrapped in the middle stays one.",
            ["A line that is\nwrapped in the middle stays one."],
        ),
        ("Short. Then a longer sentence comes.", ["Short. Then a longer sentence comes."]),
        ("A longer sentence comes first. Short.", ["A longer sentence comes first. Short."]),
        ("no end", ["no end"]),
    ],
)
def test_sentences_are_found_within_a_chunk(text: str, sentences: list[str] | None) -> None:
    expected = sentences or ["The list has two items:", "- the first of them\n- the second one"]
    assert [text[start:end] for start, end in sentence_spans(text, Span(0, len(text), ""))] == expected


@given(st.text(alphabet="ab. \n-1A", max_size=200))
def test_sentences_cover_every_visible_character_once(text: str) -> None:
    start, end = len(text) - len(text.lstrip()), len(text.rstrip())
    if start < end:
        spans = sentence_spans(text, Span(start, end, ""))
        assert "".join("".join(text[a:b].split()) for a, b in spans) == "".join(text.split())


@pytest.mark.timeout(20)
@pytest.mark.parametrize("middle", [" ", "#", "# "])
def test_a_hostile_heading_line_is_read_in_linear_time(middle: str) -> None:
    text = f"# x{middle * 100_000}y\n\nBody."
    assert [text[span.start : span.end] for span in chunk(Document("d", "D", text), len, 64)] == ["Body."]


def test_a_hostile_heading_is_not_repeated_at_length_with_every_chunk() -> None:
    document = Document("d", "D", f"# {'x' * 100_000}\n\nBody.")
    (span,) = chunk(document, count_tokens, 64)
    assert len(embedding_text(document, span).text) < 300
