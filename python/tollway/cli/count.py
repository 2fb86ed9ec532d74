"""`tollway count`: tokens of files."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotations at run time
from typing import Annotated

import typer

__all__ = ["count"]


def count(
    files: Annotated[list[Path], typer.Argument(help="UTF-8 text files.")],
    model: Annotated[
        str | None, typer.Option(help="Count as this model does, such as gpt-4o.")
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(help="Count by this encoding; default o200k_base.")
    ] = None,
) -> None:
    """Count the tokens of FILES; a total follows where there are several."""
    from tollway.errors import ConfigurationError, InputError  # noqa: PLC0415
    from tollway.tokens import encoding_for_model, get_encoding  # noqa: PLC0415

    if model is not None and encoding is not None:
        raise ConfigurationError("give --model or --encoding, not both")
    counter = get_encoding(encoding or "o200k_base") if model is None else encoding_for_model(model)
    total = 0
    for path in files:
        try:
            text = path.read_bytes().decode()
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path} is not UTF-8: byte {error.object[error.start]:#04x} at offset "
                f"{error.start}"
            ) from error
        tokens = counter.count(text)
        total += tokens
        typer.echo(f"{tokens:>12,}  {path}")
    if len(files) > 1:
        typer.echo(f"{total:>12,}  total")
