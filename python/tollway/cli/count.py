"""`tollway count`: tokens of files."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotations at run time
from typing import TYPE_CHECKING, Annotated

import typer

from tollway.cli.reading import read_text

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
        tokens = int(counter.count(read_text(path)))
        total += tokens
        typer.echo(f"{f'{sign}{tokens:,}':>12}  {path}")
    if len(files) > 1:
        typer.echo(f"{f'{sign}{total:,}':>12}  total")
