"""`tollway count`: tokens of files."""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003 - typer reads the annotations at run time
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tollway.tokens import TokenEstimator

__all__ = ["count"]


def count(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="UTF-8 text files; - is standard input."),
    ],
    model: Annotated[
        str | None, typer.Option(help="Count as this model does, such as gpt-4o.")
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(help="Count by this encoding; default o200k_base.")
    ] = None,
) -> None:
    """Count the tokens of each FILE.

    A total follows where there are several. Counts of a model whose tokenizer is not public are
    estimates: they begin with ~.
    """
    from tollway.errors import ConfigurationError  # noqa: PLC0415
    from tollway.tokens import Encoding, get_encoding, tokenizer_for_model  # noqa: PLC0415

    if model is not None and encoding is not None:
        raise ConfigurationError("give --model or --encoding, not both")
    counter: Encoding | TokenEstimator = get_encoding(encoding or "o200k_base")
    sign = ""
    if model is not None:
        found = tokenizer_for_model(model)
        if not isinstance(found, Encoding):
            sign = "~"
            typer.echo(
                f"no public tokenizer of {model} is known: estimated as {found.ratio:g} times "
                f"the tokens of {found.reference.name}",
                err=True,
            )
        counter = found
    total = 0
    for path in files:
        tokens = int(counter.count(_read(path)))
        total += tokens
        typer.echo(f"{f'{sign}{tokens:,}':>12}  {path}")
    if len(files) > 1:
        typer.echo(f"{f'{sign}{total:,}':>12}  total")


def _read(path: Path) -> str:
    from tollway.errors import InputError  # noqa: PLC0415

    is_stdin = str(path) == "-"
    if is_stdin and sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison] - if closed
        raise InputError("there is no standard input")
    try:
        data = sys.stdin.buffer.read() if is_stdin else path.read_bytes()
        # A mark of the byte order is no text; jobs leave it out too.
        return data.decode().removeprefix("\ufeff")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8: byte {error.object[error.start]:#04x} at offset {error.start}"
        ) from error
