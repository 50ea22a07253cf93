"""reStructuredText to title and text."""

from pathlib import Path

import pytest

from indexer.formats import parse


def test_restructured_text_titles_become_headings() -> None:
    text = (
        "=====\nGuide\n=====\n\nIntro.\n\nPart one\n--------\n\nDetail\n~~~~~~\n\nPart two\n--------\n\nEnd."
    )
    title, result, _ = parse("g.rst", text.encode())
    assert title == "Guide"
    assert [line for line in result.splitlines() if line.startswith("#")] == [
        "# Guide",
        "## Part one",
        "### Detail",
        "## Part two",
    ]
    assert "---" not in result


def test_restructured_text_keeps_what_it_says_and_loses_its_marks() -> None:
    text = """
.. A comment.
.. include:: secret.txt
.. toctree::

   other

Use :ref:`the guide <guide>`, :class:`~works.Valve` and `the site <https://example.org>`_.

.. py:function:: close(valve)
   :noindex:

   Closes it.

Example::

    # not a heading
    close(v)

- one

  more
- two

valve
  A part.

====  ====
Part  Size
====  ====
G-1   14
====  ====

.. unknown:: argument

   Heading inside
   --------------

   Text inside.
"""
    title, result, _ = parse("notes.rst", text.encode())
    assert title == "Notes"
    assert result.split("\n\n") == [
        ".. include:: secret.txt",
        "Use the guide, works.Valve and the site.",
        "close(valve)",
        "Closes it.",
        "Example:",
        "```\n# not a heading\nclose(v)\n```",
        "- one\n  more\n- two",
        "- valve: A part.",
        "| Part | Size |\n| --- | --- |\n| G-1 | 14 |",
        "argument",
        "Heading inside\n--------------",
        "Text inside.",
    ]


@pytest.mark.parametrize(
    "directive", ["include:: {}", "csv-table::\n   :file: {}", "raw:: html\n   :file: {}"]
)
def test_restructured_text_cannot_read_other_files(directive: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("The combination is 4711.")
    text = f"Start.\n\n.. {directive.format(tmp_path / 'secret')}\n"
    assert "4711" not in parse("a.rst", text.encode()).text
