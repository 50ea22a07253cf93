"""Single documents, put and deleted by an application instead of read from the folder."""

from __future__ import annotations

from dataclasses import dataclass, replace

from indexer.config import Workspace
from indexer.corpus import CorpusError, Document, Owner
from indexer.database import IndexMissing, Making
from indexer.encoding import Encoder
from indexer.metadata import check_metadata, hash_document
from indexer.names import check_id
from indexer.store import Store
from indexer.sync import ReadDocument, making_of, open_store, publish, write

_PATIENCE_SECONDS = 10.0


class DocumentUnknown(LookupError):
    """There is no document with this id."""


class DocumentOfFolder(RuntimeError):
    """A document of the documents folder, which only its file can change."""


@dataclass(frozen=True, slots=True)
class Written:
    """The generation in which a change can be seen, and what the change did."""

    generation: int
    created: bool
    """Whether there was no such document before."""
    chunks_embedded: int
    """Distinct texts that had no vector yet."""


def put_document(
    workspace: Workspace,
    document: Document,
    encoder: Encoder,
    chunk_tokens: int,
    patience_seconds: float = _PATIENCE_SECONDS,
    overlap_tokens: int = 0,
) -> Written:
    """Add or replace a document, as one new generation, or none if it is there already just like that.

    It is published when this returns, and stays when the folder is synced. Another writer is waited for. Raises
    CorpusError (id, text or metadata), DocumentOfFolder, IndexBusy, IndexMissing (the index was made with other
    settings), IndexUnwritable.
    """
    check_id(document.id)
    if not document.text.strip() or "\0" in document.title + document.text:
        raise CorpusError("text: empty, or with a NUL character; a document needs text that can be read")
    document = replace(
        document, title=document.title or document.id, metadata=check_metadata(document.metadata)
    )
    with open_store(workspace, patience_seconds) as store:
        making = _present_making(store, making_of(encoder, chunk_tokens, overlap_tokens))
        stored = store.stored_one(document.id)
        if stored and stored.owner is Owner.FOLDER:
            raise _of_folder(document.id)
        source_hash = hash_document(document)
        if stored and stored.source_hash == source_hash:
            return Written(store.meta().generation, created=False, chunks_embedded=0)
        read = [ReadDocument(document, source_hash)]
        generation, embedded = write(workspace, store, making, read, (), encoder, Owner.API)
        return Written(generation, stored is None, embedded)


def delete_document(
    workspace: Workspace, document_id: str, patience_seconds: float = _PATIENCE_SECONDS
) -> Written:
    """Remove a document that was put, with all that was derived from it, as one new generation.

    Raises DocumentUnknown, DocumentOfFolder, IndexBusy, IndexUnwritable.
    """
    with open_store(workspace, patience_seconds) as store:
        stored = store.stored_one(document_id)
        if stored is None:
            raise DocumentUnknown(f"there is no document {document_id!r}")
        if stored.owner is Owner.FOLDER:
            raise _of_folder(document_id)
        making = store.meta().making
        generation = publish(workspace, store, making, (), (document_id,), Owner.API)
        return Written(generation, created=False, chunks_embedded=0)


def _present_making(store: Store, wanted: Making) -> Making:
    """What the index was made with, which one document must not change."""
    meta = store.meta()
    if meta.generation > 0 and meta.making != wanted:
        raise IndexMissing(
            f"the index was made with {_in_words(meta.making)}, not {_in_words(wanted)};"
            " run `openbook index` to make it anew"
        )
    return wanted


def _in_words(making: Making) -> str:
    overlap = f", overlapping by {making.overlap_tokens}" if making.overlap_tokens else ""
    return f"{making.encoder_id} and chunks of {making.chunk_tokens} tokens{overlap}"


def _of_folder(document_id: str) -> DocumentOfFolder:
    return DocumentOfFolder(
        f"{document_id!r} is a file of the documents folder; change or remove the file, or use another id"
    )
