"""The SQLite files of a service beside the index: jobs, feedback, experiments."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from indexer.database import connect


class TablesDamaged(RuntimeError):
    """A file of tables that is none any more; the message names it and the remedy."""


def open_tables(path: Path, schema: str, *pragmas: str) -> sqlite3.Connection:
    """A connection that several threads may share under a lock; the tables are made if need be.

    It begins no transactions by itself. Raises TablesDamaged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = connect(path)
    try:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
        if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
            connection.executescript(f"BEGIN IMMEDIATE; {schema}; PRAGMA user_version = 1; COMMIT;")
    except sqlite3.DatabaseError as error:
        connection.close()
        if isinstance(error, sqlite3.OperationalError):
            raise  # full, locked or read-only: no damage
        raise TablesDamaged(
            f"{path} is damaged ({error}); restore a backup (`openbook restore`), or move the file aside to begin it "
            "anew without what it held"
        ) from error
    return connection
