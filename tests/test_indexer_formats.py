"""Every supported file format to title and text."""

from __future__ import annotations

from pathlib import Path

import docx
import pytest

from indexer.corpus import CorpusError
from indexer.formats import read_file

HTML = """<!DOCTYPE html><html><head><title>Gasket rules - The Works</title></head><body>
<nav><a href="/">Works home</a> <a href="/stores">Stores</a></nav>
<main><h1>Gasket rules</h1>
<p>The gaskets of the works are kept in a dry and dark room by the yard keeper, who counts them on
Mondays and writes snake_case names on them.</p><h2>Sizes</h2>
<table><tr><th>Part</th><th>Size</th></tr><tr><td>G-1</td><td>14 mm</td></tr></table>
<ul><li>Never reuse one.</li></ul></main>
<footer><p>Printed copies are out of date.</p></footer></body></html>"""


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_markdown_is_kept_verbatim_and_titled_by_its_first_heading(tmp_path: Path) -> None:
    text = "# The *title* #\n\nBody  text\n"
    assert read_file(write(tmp_path, "a.md", text)) == ("The *title*", text)


def test_a_file_without_heading_is_titled_by_its_name(tmp_path: Path) -> None:
    assert read_file(write(tmp_path, "night-shift_rules.TXT", "\ufeffLights out.\r\nNow.")) == (
        "Night shift rules",
        "Lights out.\nNow.",
    )


def test_restructured_text_titles_become_headings(tmp_path: Path) -> None:
    text = (
        "=====\nGuide\n=====\n\nIntro.\n\nPart one\n--------\n\nDetail\n~~~~~~\n\nPart two\n--------\n\nEnd."
    )
    title, result = read_file(write(tmp_path, "g.rst", text))
    assert title == "Guide"
    assert [line for line in result.splitlines() if line.startswith("#")] == [
        "# Guide",
        "## Part one",
        "### Detail",
        "## Part two",
    ]
    assert "---" not in result


def test_html_gives_the_main_content_with_headings_tables_and_lists(tmp_path: Path) -> None:
    title, text = read_file(write(tmp_path, "page.html", HTML))
    assert title == "Gasket rules"
    assert "## Sizes\n" in text
    assert "| G-1 | 14 mm |\n" in text
    assert "- Never reuse one." in text
    assert "snake_case" in text
    assert "Stores" not in text
    assert "Printed" not in text


def test_a_tiny_html_page_is_not_lost(tmp_path: Path) -> None:
    assert "Closed" in read_file(write(tmp_path, "tiny.htm", "<html><body><p>Closed.</p></body></html>"))[1]


def test_docx_gives_headings_lists_and_table_rows_in_order(tmp_path: Path) -> None:
    document = docx.Document()
    document.add_heading("Manual", 0)
    document.add_heading("Care", 1)
    document.add_paragraph("Wipe it.")
    document.add_paragraph("Dry it.", style="List Bullet")
    table = document.add_table(1, 2)
    table.cell(0, 0).text, table.cell(0, 1).text = "Part", "Size"
    document.add_paragraph("Done.")
    document.save(str(tmp_path / "m.docx"))
    title, text = read_file(tmp_path / "m.docx")
    assert title == "Manual"
    assert text.split("\n\n") == ["# Manual", "# Care", "Wipe it.", "- Dry it.", "| Part | Size |", "Done.\n"]


def test_pdf_lines_become_headings_and_paragraphs(tmp_path: Path) -> None:
    lines = [
        (24, 740, "Seal Guide"),
        (10, 700, "The seal is wiped with a damp cloth every morning, be-"),
        (10, 688, "fore the first run."),
        (10, 670, "Then it is dried."),
        (14, 640, "Storage"),
        (10, 620, "Keep it flat."),
    ]
    title, text = read_file(write(tmp_path, "seal.pdf", make_pdf(lines)))
    assert title == "Seal Guide"
    assert text.split("\n\n") == [
        "# Seal Guide",
        "The seal is wiped with a damp cloth every morning, before the first run.",
        "Then it is dried.",
        "## Storage",
        "Keep it flat.",
    ]


@pytest.mark.parametrize("name", ["a.pdf", "a.docx"])
def test_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(CorpusError, match=rf"{name}: cannot be read .*; repair or remove it"):
        read_file(write(tmp_path, name, b"%PDF-1.4 nonsense"))


def test_text_in_another_encoding_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"a\.txt: not UTF-8 text \(byte 3\)"):
        read_file(write(tmp_path, "a.txt", "caf\u00e9".encode("latin-1")))


@pytest.mark.parametrize("name", ["a.md", "a.html", "a.pdf"])
def test_file_without_text_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(CorpusError, match="holds no text"):
        read_file(write(tmp_path, name, make_pdf([]) if name == "a.pdf" else " \n"))


def make_pdf(lines: list[tuple[int, int, str]]) -> bytes:
    """A one-page PDF of (size, height on the page, text)."""
    content = "".join(f"BT /F1 {size} Tf 72 {y} Td ({text}) Tj ET\n" for size, y, text in lines)
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 5 0 R"
        " /Resources << /Font << /F1 4 0 R >> >> >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        f"<< /Length {len(content)} >>\nstream\n{content}endstream",
    ]
    body = "%PDF-1.4\n"
    offsets = []
    for number, text in enumerate(objects, start=1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{text}\nendobj\n"
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    return (
        f"{body}xref\n0 6\n0000000000 65535 f \n{table}"
        f"trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n{len(body)}\n%%EOF\n"
    ).encode()
