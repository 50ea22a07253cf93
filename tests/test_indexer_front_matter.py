"""What Markdown says of itself above its text."""

import pytest

from indexer.corpus import CorpusError
from indexer.formats import parse

FRONT = """---
title: The night shift
team: Lamps
year: 2026
ratio: 0.5
public: yes
since: 2026-01-31
tags: [a, b]
owner:
---

# Rules

Lights out.
"""


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_front_matter_becomes_title_and_metadata_and_leaves_the_text(ends: str) -> None:
    content = parse("a.md", b"\xef\xbb\xbf" + FRONT.replace("\n", ends).encode())
    assert content == (
        "The night shift",
        "# Rules\n\nLights out.\n",
        {"team": "Lamps", "year": 2026, "ratio": 0.5, "public": True, "since": "2026-01-31"},
    )


@pytest.mark.parametrize(
    "text",
    [
        "---\nA line between rules.\n---\n\nMore.",
        "---\n# Heading\n---\n\nMore.",
        "---\n- an item\n---\n",
        "---\nteam: never closed\n\nMore.",
        "---\n" + "team: far too long\n" * 9000 + "---\nMore.",
        "--- team: a\n---\nMore.",
        "\n---\nteam: not at the top\n---\n",
    ],
    ids=["text", "heading", "list", "open", "huge", "one line", "blank above"],
)
def test_a_rule_above_other_text_is_text(text: str) -> None:
    content = parse("a.md", text.encode())
    assert (content.text, content.metadata) == (text, {})


def test_front_matter_is_read_in_markdown_only() -> None:
    assert parse("a.txt", FRONT.encode()).text == FRONT


ALIASES = "---\na: &a [x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
)


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (ALIASES.removeprefix("---\n"), r"front matter: the alias \*a; write the value out"),
        ("a: " + "[" * 20_000, "front matter: nested more than 32 deep"),
        ("a: b: c", r"front matter: not YAML that can be used .line 2: .*repair it"),
        (
            "a: !!python/object/apply:os.system [true]",
            "front matter: not YAML .*could not determine a constructor",
        ),
        ("a: " + "9" * 5000, "front matter: not YAML .*integer string conversion"),
        ("a: 0x" + "f" * 9000, "front matter: holds a number of more than 1,000 digits"),
        ("title: 0x" + "f" * 9000, "front matter: holds a number of more than 1,000 digits"),
        ('a: !!bool "maybe"', "front matter: not YAML that can be used"),
        ('a: !!int ""', "front matter: not YAML that can be used"),
        ('a: !!timestamp "soon"', "front matter: not YAML that can be used"),
        ("a: 2026-02-31", "front matter: not YAML .*day is out of range"),
        ("? [a]\n: b", "front matter: not YAML"),
        ("a: .nan", "metadata.'a': holds a NUL character or is not a finite number"),
        ("a: " + "x" * 2000, "metadata.a: keys and values need 1 to 1024 characters"),
        ("\n".join(f"k{n}: 1" for n in range(65)), "metadata: 65 keys, more than 64"),
    ],
    ids=[
        "bomb",
        "deep",
        "broken",
        "object",
        "number",
        "hex",
        "title",
        "bool",
        "int",
        "time",
        "date",
        "key",
        "nan",
        "long",
        "many",
    ],
)
def test_hostile_front_matter_is_refused_in_one_line(block: str, reason: str) -> None:
    with pytest.raises(CorpusError, match=reason) as refused:
        parse("a.md", f"---\n{block}\n---\nText.".encode())
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 250


def test_metadata_holds_nothing_that_a_terminal_obeys_or_that_cannot_be_stored() -> None:
    content = parse("a.md", b'---\nteam: "a\\e[2Jb\\ud800"\n---\nText.')
    assert content.metadata == {"team": "a[2Jb?"}
