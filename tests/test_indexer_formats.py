"""Every supported file format to title and text."""

from __future__ import annotations

import io
from typing import Any

import docx
import pptx
import pypdf
import pytest
from docx.oxml import parse_xml

from indexer.corpus import CorpusError
from indexer.formats import parse

HTML = """<!DOCTYPE html><html><head><title>Gasket rules - The Works</title></head><body>
<nav><a href="/">Works home</a> <a href="/stores">Stores</a></nav>
<main><h1>Gasket rules</h1>
<p>The gaskets of the works are kept in a dry and dark room by the yard keeper, who counts them on
Mondays and writes snake_case names on them.</p><h2>Sizes</h2>
<table><tr><th>Part</th><th>Size</th></tr><tr><td>G-1</td><td>14 mm</td></tr></table>
<ul><li>Never reuse one.</li></ul></main>
<footer><p>Printed copies are out of date.</p></footer></body></html>"""


def read(name: str, content: str | bytes) -> tuple[str, str]:
    content = content.encode() if isinstance(content, str) else content
    return parse(name, content)[:2]


def test_markdown_is_kept_verbatim_and_titled_by_its_first_heading() -> None:
    text = "# The *title* #\n\nBody  text\n"
    assert read("a.md", text) == ("The *title*", text)


def test_a_file_without_heading_is_titled_by_its_name() -> None:
    assert read("night-shift_rules.TXT", "\ufeffLights out.\r\nNow.") == (
        "Night shift rules",
        "Lights out.\nNow.",
    )


def test_html_gives_the_main_content_with_headings_tables_and_lists() -> None:
    title, text = read("page.html", HTML)
    assert title == "Gasket rules"
    assert "## Sizes\n" in text
    assert "| G-1 | 14 mm |\n" in text
    assert "- Never reuse one." in text
    assert "snake_case" in text
    assert "Stores" not in text
    assert "Printed" not in text


def test_a_tiny_html_page_is_not_lost() -> None:
    assert "Closed" in read("tiny.htm", "<html><body><p>Closed.</p></body></html>")[1]


def test_docx_gives_headings_lists_and_table_rows_in_order() -> None:
    document = docx.Document()
    document.add_heading("Manual", 0)
    document.add_heading("Care", 1)
    document.add_paragraph("Wipe it.")
    document.add_paragraph("Dry it.", style="List Bullet")
    table = document.add_table(1, 2)
    table.cell(0, 0).text, table.cell(0, 1).text = "Part", "Size"
    document.add_paragraph("Done.")
    title, text = read("m.docx", saved(document))
    assert title == "Manual"
    assert text.split("\n\n") == [
        "# Manual",
        "# Care",
        "Wipe it.",
        "- Dry it.",
        "| Part | Size |\n| --- | --- |",
        "Done.",
    ]


def test_pdf_lines_become_headings_and_paragraphs() -> None:
    lines = [
        (24, 740, "Seal Guide"),
        (10, 700, "The seal is wiped with a damp cloth every morning, be-"),
        (10, 688, "fore the first run."),
        (10, 670, "Then it is dried."),
        (14, 640, "Storage"),
        (10, 620, "Keep it flat."),
    ]
    title, text = read("seal.pdf", make_pdf(lines))
    assert title == "Seal Guide"
    assert text.split("\n\n") == [
        "# Seal Guide",
        "The seal is wiped with a damp cloth every morning, before the first run.",
        "Then it is dried.",
        "## Storage",
        "Keep it flat.",
    ]


def test_a_pdf_of_many_pages_is_read_in_time_that_grows_with_their_number() -> None:
    page = make_pdf([(10, 740 - 12 * i, f"Line {i} of a page without a full stop") for i in range(50)])
    writer = pypdf.PdfWriter()
    for _ in range(40):
        writer.append(io.BytesIO(page))
    assert read("long.pdf", saved(writer, "write"))[1].count("Line 7 of a page") == 40


def test_pdf_protected_against_changes_only_is_read() -> None:
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(make_pdf([(10, 740, "Open to all.")])))
    writer.encrypt(user_password="", owner_password="owner", algorithm="RC4-128")
    assert "Open to all." in read("a.pdf", saved(writer, "write"))[1]


def test_csv_rows_become_sections_that_name_their_columns() -> None:
    text = '\ufeffPart;Size;\nG-1;"14 mm;\nnominal";spare\n;;\nG-2;;\n'
    assert read("stock-list.csv", text) == (
        "Stock list",
        "## G-1\n\nPart: G-1\nSize: 14 mm; nominal\nspare\n\n## G-2\n\nPart: G-2",
    )
    assert read("a.tsv", "Part\tSize\nG,1\t5")[1] == "## G,1\n\nPart: G,1\nSize: 5"


def test_a_csv_file_without_rows_still_says_what_it_holds() -> None:
    assert read("a.csv", "Part,Size\n")[1] == "Part, Size"


def test_pptx_gives_a_section_a_slide_with_lists_tables_and_notes() -> None:
    presentation = pptx.Presentation()
    first = presentation.slides.add_slide(presentation.slide_layouts[1])
    first.shapes.title.text = "Valve care"
    first.placeholders[1].text = "Close it.\nOil it."
    first.notes_slide.notes_text_frame.text = "Say why."
    second = presentation.slides.add_slide(presentation.slide_layouts[6])
    table = second.shapes.add_table(1, 2, 0, 0, 900, 900).table
    table.cell(0, 0).text, table.cell(0, 1).text = "Part", "Size"
    title, text = read("v.pptx", saved(presentation))
    assert title in ("Valve care", "PowerPoint Presentation")
    assert text.split("\n\n") == [
        "# Valve care",
        "- Close it.\n- Oil it.",
        "Say why.",
        "## Slide 2",
        "| Part | Size |\n| --- | --- |",
    ]


def test_docx_text_in_insertions_controls_and_boxes_is_read_and_deleted_text_is_not() -> None:
    document = docx.Document()
    word = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    run = "<w:r><w:t>{}</w:t></w:r>"
    body = document.element.body
    body.insert(
        0,
        parse_xml(
            f"<w:p {word}>{run.format('Kept')}<w:ins>{run.format(' added')}</w:ins>"
            "<w:del><w:r><w:delText> gone</w:delText></w:r></w:del></w:p>"
        ),
    )
    body.insert(
        1, parse_xml(f"<w:sdt {word}><w:sdtContent><w:p>{run.format('Control')}</w:p></w:sdtContent></w:sdt>")
    )
    assert read("a.docx", saved(document))[1] == "Kept added\n\nControl"


def test_control_characters_do_not_reach_a_terminal() -> None:
    assert read("a.md", "Red\x1b[31m\x00 and\x9b blue.\fNext\tpage.")[1] == "Red[31m and blue.\nNext\tpage."


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("# " + "a" * 500, "a" * 200),
        ("Text\n#no\n# \n#\n##  Two\n#\tYes  ##\n", "Yes"),
        ("Text #\n", "Name"),
        ("# x" + " " * 1_000_000 + "y", "x" + " " * 199),
        ("# #\n", "#"),
    ],
)
def test_titles_come_from_level_one_headings_in_linear_time(text: str, title: str) -> None:
    assert read("name.md", text)[0] == title


@pytest.mark.parametrize("name", ["a.pdf", "a.docx"])
def test_damaged_file_is_named(name: str) -> None:
    with pytest.raises(CorpusError, match="repair or remove it"):
        read(name, b"%PDF-1.4 nonsense")


def test_text_in_another_encoding_is_named() -> None:
    with pytest.raises(CorpusError, match=r"^not UTF-8 text \(byte 3\)"):
        read("a.txt", "caf\u00e9".encode("latin-1"))


@pytest.mark.parametrize("name", ["a.md", "a.html", "a.pdf"])
def test_file_without_text_is_named(name: str) -> None:
    with pytest.raises(CorpusError, match="holds no text"):
        read(name, make_pdf([]) if name == "a.pdf" else " \n")


def saved(document: Any, method: str = "save") -> bytes:
    file = io.BytesIO()
    getattr(document, method)(file)
    return file.getvalue()


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
