"""The command line.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done but some texts have no vector, 130 interrupted.
"""

from __future__ import annotations

import errno
import os
import sys

import typer

from tollway.cli.complete import complete
from tollway.cli.count import count
from tollway.cli.embed import embed
from tollway.cli.limits import limits
from tollway.cli.plan import plan
from tollway.cli.simulate import simulate
from tollway.errors import TollwayError

__all__ = ["app", "main"]

# What a write to a disk, a pipe or a closed descriptor fails with.
_OF_WRITING = {
    errno.EBADF,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EINVAL,
    errno.EIO,
    errno.ENOSPC,
    errno.EPIPE,
}

app = typer.Typer(
    name="tollway",
    help="Push millions of texts through language-model APIs: exact limits, exact tokens, "
    "nothing lost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(value: bool) -> None:
    if value:
        from importlib.metadata import version  # noqa: PLC0415

        typer.echo(f"tollway {version('tollway')}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    del version


for command in (embed, plan, complete, count, simulate, limits):
    app.command()(command)


def main() -> None:
    """Run the command line; a failure is one line on stderr, without a traceback."""
    if sys.stderr is None:  # pyright: ignore[reportUnnecessaryComparison] - if closed
        # Else progress has nowhere to go, and the first file that is opened its number.
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - to the end
    try:
        app()
    except TollwayError as error:
        if os.environ.get("TOLLWAY_TRACEBACK"):
            raise
        sys.stderr.write(f"tollway: {type(error).__name__}: {error}\n")
        raise SystemExit(1) from None
    except OSError as error:
        if os.environ.get("TOLLWAY_TRACEBACK"):
            raise
        # Those of files are named before. What is left is the report on stdout, or that the system
        # gives no more, of open files for example.
        what = "cannot write the output" if error.errno in _OF_WRITING else type(error).__name__
        sys.stderr.write(f"tollway: {what}: {error.strerror or error}\n")
        # What could not be written would be tried once more, and fail with a traceback.
        sys.stdout = None
        raise SystemExit(1) from None
