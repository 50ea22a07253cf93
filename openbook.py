"""The `openbook` command: joins the sub-commands and turns expected errors into one line; nothing else."""

from __future__ import annotations

import logging
import os
import sys
import warnings

import click
from rich.console import Console
from rich.logging import RichHandler

from cli.backup import backup_command, restore_command
from cli.eval import eval_command
from cli.index import index
from cli.serve import ask, keys, serve
from cli.start import demo, init
from cli.tune import adapters, tune


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="openbook")
def cli() -> None:
    """Retrieve, fine-tune, or both? Measure it on your own documents, then serve the answer."""


for _command in (
    init,
    index,
    tune,
    adapters,
    ask,
    serve,
    keys,
    eval_command,
    demo,
    backup_command,
    restore_command,
):
    cli.add_command(_command)


def main() -> None:
    """Run the command line; expected errors end in one line and exit code 1 (failed) or 2 (bad usage)."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_path=False)],
    )
    logging.getLogger("openbook").setLevel(logging.INFO)
    logging.getLogger("openbook.indexer").setLevel(logging.WARNING)  # its report is printed anyway
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch's large tensors in huge pages: a tenth faster
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted; run the same command to go on where it stopped", err=True)
        sys.exit(130)
    except Exception as error:
        code = exit_code(error)
        if code is None:
            raise
        click.echo(f"openbook: {error}", err=True)
        sys.exit(code)


def exit_code(error: Exception) -> int | None:
    """2 for bad input or configuration, 1 for work that failed, None for a fault of ours (shown in full)."""
    if isinstance(error, ValueError) and type(error).__module__.partition(".")[0] in PACKAGES:
        return 2
    if type(error).__module__.partition(".")[0] in PACKAGES:
        return 2 if type(error).__name__ == "IndexMissing" else 1
    return 1 if isinstance(error, OSError) else None


PACKAGES = ("settings", "cli", "indexer", "tuner", "service", "eval")

if __name__ == "__main__":
    main()
