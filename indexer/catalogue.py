"""What the index holds, without its texts: documents by the page, counts, and whether files have changed since."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection

from indexer.config import Workspace
from indexer.corpus import Owner
from indexer.database import Meta, open_published, reporting_damage
from indexer.parsing import Parser
from indexer.signatures import FileHashes
from indexer.sources import list_sources


@dataclass(frozen=True, slots=True)
class Entry:
    """A document as a list shows it."""

    id: str
    title: str
    owner: Owner
    characters: int
    chunks: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the documents whose id or title holds what was looked for, in the order of their ids."""

    entries: tuple[Entry, ...]
    total: int


@dataclass(frozen=True, slots=True)
class Counts:
    """The size of one generation of the index."""

    generation: int
    encoder_id: str
    documents: int
    chunks: int


@dataclass(frozen=True, slots=True)
class Changes:
    """What a sync would find: names of files that are new or changed, and of those that are gone."""

    changed: tuple[str, ...]
    removed: tuple[str, ...]


def list_page(workspace: Workspace, holding: str, offset: int, limit: int) -> Page:
    """The documents from the `offset`-th on whose id or title holds a text; case counts for letters beyond ASCII only.

    Raises IndexMissing.
    """
    with _reading(workspace) as (connection, _):
        rows = connection.execute(_PAGE, {"holding": holding, "limit": limit, "offset": offset}).fetchall()
        total = connection.execute(_TOTAL, {"holding": holding}).fetchone()[0]
    return Page(tuple(Entry(row[0], row[1], Owner(row[2]), *row[3:]) for row in rows), total)


_FITS = "instr(lower(d.id || char(10) || d.title), lower(:holding)) > 0"
_TOTAL = f"SELECT count(*) FROM documents d WHERE {_FITS}"  # noqa: S608 - our own condition
_PAGE = f"""
    SELECT d.id, d.title, d.owner, length(d.text), (SELECT count(*) FROM chunks WHERE document_id = d.id)
    FROM documents d WHERE {_FITS} ORDER BY d.id LIMIT :limit OFFSET :offset
"""  # noqa: S608 - our own condition


def count(workspace: Workspace) -> Counts:
    """How much the index holds. Raises IndexMissing."""
    with _reading(workspace) as (connection, meta):
        sizes = connection.execute("SELECT (SELECT count(*) FROM documents), (SELECT count(*) FROM chunks)")
        return Counts(meta.generation, meta.making.encoder_id, *sizes.fetchone())


def changes_since(workspace: Workspace, documents_path: Path, parser: Parser) -> Changes:
    """How the files differ from what the last sync saw of them; those it did not touch are not read.

    Raises CorpusError if the files cannot be listed, IndexMissing.
    """
    with _reading(workspace) as (connection, _):
        rows = connection.execute("SELECT id, source_hash FROM documents WHERE owner = ?", (Owner.FOLDER,))
        indexed = dict(rows.fetchall())
        taken = {
            row[0] for row in connection.execute("SELECT id FROM documents WHERE owner <> ?", (Owner.FOLDER,))
        }
        files = connection.execute("SELECT name, signature, hash FROM files")
        hashes = FileHashes({row[0]: (row[1], row[2]) for row in files})
    listing = list_sources(documents_path, parser, hashes)
    # What cannot be read has no hash: a sync would pass it over.
    sources = {source.id: source.hash for source in listing.sources if source.hash and source.id not in taken}
    changed = (name for name, digest in sources.items() if indexed.get(name) != digest)
    listed = {source.id for source in listing.sources}
    removed = (name for name in indexed.keys() - listed if listing.is_gone(name))
    return Changes(tuple(sorted(changed)), tuple(sorted(removed)))


@contextmanager
def _reading(workspace: Workspace) -> Iterator[tuple[Connection, Meta]]:
    connection, meta = open_published(workspace.database)
    with closing(connection), reporting_damage(workspace.database):
        yield connection, meta
