"""Making the index equal the documents on disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from indexer.chunking import CHUNKING_VERSION, chunk, embedding_text
from indexer.config import IndexConfig, Workspace
from indexer.corpus import CorpusError, Document, Owner
from indexer.database import Making, reporting_damage
from indexer.encoding import Encoder, EncoderError, Passage
from indexer.faiss_part import Kind
from indexer.files import hash_text
from indexer.locking import writer_lock
from indexer.parsing import Parser
from indexer.progress import progress
from indexer.signatures import FileHashes
from indexer.snapshot import Snapshot
from indexer.sources import Source, list_sources
from indexer.store import PreparedDocument, Store
from indexer.vectors import open_vectors

logger = logging.getLogger("openbook.indexer")

_VECTORS_PER_COMMIT = 256


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What a sync did. Document counts add up to what was there before and after."""

    generation: int
    added: int
    changed: int
    removed: int
    unchanged: int
    chunks: int
    """In the whole index."""
    chunks_embedded: int
    """Distinct texts that had no vector yet."""
    skipped: tuple[tuple[str, str], ...]
    """Documents that could not be read, and why; one indexed before stays as it was."""
    seconds: float


def sync(
    workspace: Workspace,
    documents_path: Path,
    encoder: Encoder,
    chunk_tokens: int,
    parser: Parser | None = None,
    kind: Kind | None = None,
    overlap_tokens: int = 0,
) -> SyncReport:
    """Bring the index to what `documents_path` holds, as one new generation, or none if nothing changed.

    `kind` is how its vectors are searched from then on; without it, as before. Killed at any moment, the
    index is the one before or the one after; vectors made so far are kept for the next attempt.
    """
    started = time.perf_counter()
    making = making_of(encoder, chunk_tokens, overlap_tokens)
    with open_store(workspace) as store:
        # 1. See what there is, and read what is new or changed.
        hashes = FileHashes(store.files())
        listing = list_sources(documents_path, parser or Parser(IndexConfig().max_file_mb), hashes)
        stored = store.stored()
        before = {name: known.source_hash for name, known in stored.items() if known.owner is Owner.FOLDER}
        theirs = stored.keys() - before.keys()
        ours = [source for source in listing.sources if source.id not in theirs]
        documents, skipped = _read([source for source in ours if before.get(source.id) != source.hash])
        skipped += [(source.id, _CLASH) for source in listing.sources if source.id in theirs]
        changed = before.keys() & {read.document.id for read in documents}
        unlisted = before.keys() - {source.id for source in ours}
        removed = {document_id for document_id in unlisted if listing.is_gone(document_id)}
        added = len(documents) - len(changed)
        if len(before) + added == len(removed):
            first = ": ".join(skipped[0])
            raise CorpusError(f"{documents_path}: not one document can be read; the first: {first}")

        # 2. If chunks are made differently now, those of all other documents are stale.
        meta = store.meta()
        if meta.making != making:
            stale = stored.keys() - removed - changed
            documents += [
                ReadDocument(store.document(document_id), stored[document_id].source_hash)
                for document_id in sorted(stale)
            ]

        # 3. Cut, embed, publish.
        generation, embedded = meta.generation, 0
        if documents or removed:
            generation, embedded = write(workspace, store, making, documents, removed, encoder, kind=kind)
        store.keep_files(hashes.seen)
        chunks = store.chunk_count()

    report = SyncReport(
        generation=generation,
        added=added,
        changed=len(changed),
        removed=len(removed),
        unchanged=len(before) - len(changed) - len(removed),
        chunks=chunks,
        chunks_embedded=embedded,
        skipped=tuple(skipped),
        seconds=time.perf_counter() - started,
    )
    logger.info("generation %d: %d chunks, %d embedded", generation, chunks, embedded)
    return report


def making_of(encoder: Encoder, chunk_tokens: int, overlap_tokens: int = 0) -> Making:
    """How documents are cut and embedded with these settings. Raises EncoderError if the encoder cannot."""
    if chunk_tokens > encoder.max_tokens:
        raise EncoderError(
            f"chunk_tokens is {chunk_tokens}, but {encoder.id} reads only {encoder.max_tokens} tokens;"
            " lower [index] chunk_tokens"
        )
    return Making(encoder.id, chunk_tokens, CHUNKING_VERSION, overlap_tokens)


_CLASH = "a document put through the API has this id; rename the file, or delete that document"


@contextmanager
def open_store(workspace: Workspace, patience_seconds: float = 0.0) -> Iterator[Store]:
    """The store, for one writer. Raises IndexBusy, IndexDamaged, IndexUnwritable."""
    with (
        writer_lock(workspace, patience_seconds),
        reporting_damage(workspace.database),
        closing(Store(workspace.database)) as store,
    ):
        yield store
        store.forget_history()


def write(
    workspace: Workspace,
    store: Store,
    making: Making,
    documents: Sequence[ReadDocument],
    removed: Iterable[str],
    encoder: Encoder,
    owner: Owner = Owner.FOLDER,
    kind: Kind | None = None,
) -> tuple[int, int]:
    """Publish a generation with these documents and without those; returns its number and the texts embedded."""
    prepared, passages = _cut(documents, encoder, making)
    embedded = _embed(passages, store, encoder)
    return publish(workspace, store, making, prepared, removed, owner, kind), embedded


def publish(
    workspace: Workspace,
    store: Store,
    making: Making,
    prepared: Sequence[PreparedDocument],
    removed: Iterable[str],
    owner: Owner,
    kind: Kind | None = None,
) -> int:
    """Publish what is cut and embedded already; returns the generation."""
    generation = store.publish(making, prepared, removed, owner)
    with closing(Snapshot(workspace.database)) as snapshot:
        open_vectors(workspace, snapshot, kind)  # so that the file is there for whoever opens this generation
    return generation


@dataclass(frozen=True, slots=True)
class ReadDocument:
    """A document and the hash of what it was read from."""

    document: Document
    source_hash: str


def _read(sources: Sequence[Source]) -> tuple[list[ReadDocument], list[tuple[str, str]]]:
    """What can be read, and id and reason of what cannot."""
    documents: list[ReadDocument] = []
    skipped: list[tuple[str, str]] = []
    if not sources:
        return documents, skipped
    with progress("reading documents", len(sources)) as advance:
        for source in sources:
            try:
                documents.append(ReadDocument(source.load(), source.hash))
            except CorpusError as error:
                skipped.append((source.id, str(error)))
            advance()
    return documents, skipped


def _cut(
    documents: Sequence[ReadDocument], encoder: Encoder, making: Making
) -> tuple[list[PreparedDocument], dict[str, Passage]]:
    """The documents with their chunks, and what to embed for each vector key."""
    prepared: list[PreparedDocument] = []
    passages: dict[str, Passage] = {}
    for read in documents:
        chunks = []
        spans = chunk(read.document, encoder.count_tokens, making.chunk_tokens, making.overlap_tokens)
        for span in spans:
            passage = embedding_text(read.document, span)
            key = hash_text(encoder.id, passage.text, repr(passage.sentences))
            passages[key] = passage
            chunks.append((span, key))
        prepared.append(PreparedDocument(read.document, read.source_hash, tuple(chunks)))
    return prepared, passages


def _embed(passages: Mapping[str, Passage], store: Store, encoder: Encoder) -> int:
    """Embed and keep what has no vector yet; returns how many texts that were."""
    missing = store.without_vector(passages)
    if not missing:
        return 0
    with progress("embedding chunks", len(missing)) as advance:
        for start in range(0, len(missing), _VECTORS_PER_COMMIT):
            keys = missing[start : start + _VECTORS_PER_COMMIT]
            store.add_vectors(keys, encoder.encode_passages([passages[key] for key in keys]))
            advance(len(keys))
    return len(missing)
