"""Files made to hurt whoever reads them, small on disk."""

from __future__ import annotations

import io
import zipfile
import zlib
from functools import cache

import docx
import pypdf


@cache
def zip_bomb(declared_bytes: int) -> bytes:
    """A Word file whose text unpacks to `declared_bytes` of white space."""
    plain = io.BytesIO()
    docx.Document().save(plain)
    bomb = io.BytesIO()
    with (
        zipfile.ZipFile(plain) as source,
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target,
    ):
        for entry in source.infolist():
            if entry.filename != "word/document.xml":
                target.writestr(entry, source.read(entry))
        with target.open("word/document.xml", "w") as body:
            body.write(
                b'<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>'
            )
            for _ in range(declared_bytes >> 20):
                body.write(b"<w:p/>" * 170_000)
            body.write(b"</w:body></w:document>")
    return bomb.getvalue()


@cache
def flate_bomb(unpacked_bytes: int) -> bytes:
    """A PDF whose page content unpacks to `unpacked_bytes`, deflated twice."""
    packer = zlib.compressobj(1)
    inner = b"".join(packer.compress(b"q " * (1 << 19)) for _ in range(unpacked_bytes >> 20)) + packer.flush()
    return pdf(zlib.compress(inner, 9), "/Filter [/FlateDecode /FlateDecode]")


def encrypted_pdf() -> bytes:
    """A PDF that asks for a password."""
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf(b"")))
    writer.encrypt(user_password="secret", algorithm="RC4-128")
    return written(writer)


def pdf_without_pages() -> bytes:
    return written(pypdf.PdfWriter())


def written(writer: pypdf.PdfWriter) -> bytes:
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


def pdf(content: bytes, entries: str = "") -> bytes:
    """A PDF of one page with `content` (after the filters in `entries`) and the font /F1."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 5 0 R"
        b" /Resources << /Font << /F1 4 0 R >> >> >>",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        f"<< /Length {len(content)} {entries} >>\nstream\n".encode() + content + b"\nendstream",
    ]
    body = b"%PDF-1.4\n"
    offsets = []
    for number, item in enumerate(objects, start=1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, item)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return (
        body
        + b"xref\n0 6\n0000000000 65535 f \n"
        + table
        + b"trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % len(body)
    )
