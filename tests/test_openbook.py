"""The command line: what users see, and what they see when something is wrong."""

import io
import json
import logging
import re
import subprocess
import sys
import tomllib
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

import openbook
import settings
from indexer.config import Workspace


def run_process(*arguments):
    """The command as a process, as users run it."""
    return subprocess.run(
        [sys.executable, "-m", "openbook", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
        check=False,
    )


def run(*arguments):
    """The command in this process, which need not import everything again."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    logger = logging.getLogger("openbook")
    level, before = logger.level, sys.argv
    sys.argv = ["openbook", *map(str, arguments)]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            openbook.main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = before
        logger.setLevel(level)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def fails(result, said, code=2):
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 3


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / "openbook.toml").write_text("")
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "a.md").write_text("# Wren\n\nThe Wren weighs 600 g.\n")
    return tmp_path


def test_init_writes_a_file_that_loads_with_defaults_and_is_not_overwritten(tmp_path):
    assert run_process("init", tmp_path / "new").returncode == 0
    assert settings.load_settings(Workspace(tmp_path / "new")) == settings.Settings()
    fails(run_process("init", tmp_path / "new"), "exists already")


def test_template_shows_true_defaults():
    sections = settings.TEMPLATE.partition("# The four standard routes")[0]
    lines = [line.removeprefix("# ") for line in sections.splitlines()]
    shown = tomllib.loads("\n".join(line for line in lines if re.match(r"\[\w+\]$|\w+ = ", line)))
    defaults = settings.Settings().model_dump(mode="json")
    assert shown.keys() == {"model", "index", "eval"}
    for section, keys in shown.items():
        for key, value in keys.items():
            assert defaults[section][key] == value


def test_configuration_reference_is_current():
    page = Path(__file__).parent.parent / "docs" / "configuration.md"
    assert page.read_text() == settings.reference(), "run `make reference`"


def test_workspace_without_configuration_is_named(tmp_path):
    fails(run("index", "--workspace", tmp_path), "openbook init")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[index]\nchunks = 3\n", "index.chunks"),
        ("[indx]\n", "indx"),
        ("[index]\nchunk_tokens = 3\n", "index.chunk_tokens"),
        ("[index]\nchunk_tokens = 64\noverlap_tokens = 40\n", "more than half of chunk_tokens = 64"),
        ("[routes.rag]\nprompt = 'poem'\n", "routes.rag.prompt"),
        ("[index\n", "not valid TOML"),
    ],
)
def test_bad_configuration_names_the_key(workspace, text, said):
    (workspace / "openbook.toml").write_text(text)
    fails(run("index", "--workspace", workspace), said)


def test_environment_overrides_the_file(workspace, monkeypatch):
    (workspace / "openbook.toml").write_text("[index]\nchunk_tokens = 64\n")
    monkeypatch.setenv("OPENBOOK_INDEX__CHUNK_TOKENS", "96")
    assert settings.load_settings(Workspace(workspace)).index.chunk_tokens == 96


def test_missing_documents_folder_is_named(workspace):
    (workspace / "openbook.toml").write_text("[index]\ndocuments = 'nowhere'\n")
    fails(run("index", "--workspace", workspace), "nowhere")


def test_empty_corpus_is_an_error_and_leaves_no_index(workspace):
    (workspace / "documents" / "a.md").unlink()
    fails(run("index", "--workspace", workspace), "documents")
    fails(run("index", "search", "x", "--workspace", workspace), "openbook index")


def test_commands_that_need_an_index_say_how_to_get_one(workspace):
    fails(run("tune", "--workspace", workspace), "openbook index")
    fails(run("ask", "What?", "--workspace", workspace), "openbook index")


def test_a_tracker_that_is_not_installed_is_named_before_anything_is_read(workspace, monkeypatch):
    (workspace / "openbook.toml").write_text('[tune]\ntrack = "trackio"\n')
    monkeypatch.setitem(sys.modules, "trackio", None)
    result = run("tune", "--workspace", workspace)  # where there is no index, nor any question
    fails(result, "`pip install trackio`")
    assert len(result.stderr.strip().splitlines()) == 1


def test_unknown_route_lists_the_known_ones(workspace):
    fails(run("ask", "What?", "--route", "rga", "--workspace", workspace), "base, rag, tuned, hybrid")


def test_untrained_adapter_says_how_to_train_it(workspace):
    fails(run("ask", "What?", "--route", "tuned", "--workspace", workspace), "openbook tune")


@pytest.mark.parametrize("command", [("ask",), ("index", "search")])
@pytest.mark.parametrize(("question", "reason"), [("  ", "is empty"), ("x\udcff y", "is no UTF-8 text")])
def test_questions_that_are_no_text_are_refused(workspace, command, question, reason):
    result = run(*command, question, "--workspace", workspace)
    assert (result.returncode, reason in result.stderr) == (2, True)


def test_unknown_option_is_a_usage_error(workspace):
    assert run_process("index", "--wrkspace", workspace).returncode == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"question": "How?", "answers": [', "line 2"),
        ('{"question": "How?"}', "answers"),
    ],
)
def test_bad_question_lines_are_named(workspace, line, said):
    assert run("index", "--workspace", workspace).returncode == 0
    good = json.dumps({"question": "What is the mass?", "answers": ["600 g"], "document_ids": ["a.md"]})
    (workspace / "questions.jsonl").write_text(f"{good}\n{line}\n")
    fails(run("tune", "--workspace", workspace), said)


def test_own_faults_are_not_dressed_up_as_user_errors():
    assert openbook.exit_code(KeyError("x")) is None
    assert openbook.exit_code(settings.ConfigError("x")) == 2
    assert openbook.exit_code(OSError(28, "No space left")) == 1
