from collections.abc import Callable
from pathlib import Path

import pytest

from service.experiments import Experiments
from service.feedback import Feedback
from service.jobs import Jobs
from service.tables import TablesDamaged, open_tables

SCHEMA = "CREATE TABLE notes (text TEXT)"
KEEPERS: dict[str, Callable[[Path], object]] = {
    "jobs": lambda path: Jobs(path, {}),
    "feedback": Feedback,
    "experiments": lambda path: Experiments(path, lambda *_: pytest.fail("nothing to analyse")),
}


def test_tables_are_made_once_and_keep_what_is_written(tmp_path: Path) -> None:
    for _ in range(2):
        connection = open_tables(tmp_path / "new" / "notes.sqlite", SCHEMA, "journal_mode = WAL")
        connection.execute("INSERT INTO notes VALUES ('kept')")
        rows = connection.execute("SELECT text FROM notes").fetchall()
        connection.close()
    assert rows == [("kept",), ("kept",)]


@pytest.mark.parametrize("keeper", KEEPERS)
def test_a_damaged_file_is_named_with_the_remedy_and_left_as_it_is(tmp_path: Path, keeper: str) -> None:
    file = tmp_path / f"{keeper}.sqlite"
    file.write_bytes(b"no tables here" * 300)
    with pytest.raises(TablesDamaged, match=rf"{keeper}\.sqlite is damaged .*openbook restore"):
        KEEPERS[keeper](file)
    assert file.read_bytes() == b"no tables here" * 300
