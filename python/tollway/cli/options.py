"""Options that several commands share, and the embedder that they describe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from tollway.embed import Embedder

__all__ = [
    "BaseUrl",
    "BatchSize",
    "Dimensions",
    "IdField",
    "Input",
    "MaxInFlight",
    "Model",
    "Rpm",
    "SplitBy",
    "SubWindow",
    "TextField",
    "TooLongOption",
    "Tpm",
    "make_embedder",
]

Input = Annotated[
    Path, typer.Argument(help="A .txt, .md, .jsonl or .csv file, or a folder of them.")
]
Model = Annotated[str, typer.Option(help="provider/model, such as openai/text-embedding-3-small.")]
BaseUrl = Annotated[
    str | None, typer.Option(help="Address of an OpenAI-compatible server, up to /v1.")
]
Dimensions = Annotated[
    int | None, typer.Option(min=1, help="Shorter vectors, where the model can.")
]
Rpm = Annotated[int | None, typer.Option(min=1, help="Requests a minute.")]
Tpm = Annotated[int | None, typer.Option(min=1, help="Tokens a minute.")]
SubWindow = Annotated[
    float | None,
    typer.Option(help="Seconds over which --rpm is judged too; default 1 for openai, 0 for off."),
]
MaxInFlight = Annotated[int | None, typer.Option(min=1, help="Requests under way at once.")]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Texts a request; default about 128, by the limits.")
]
SplitBy = Annotated[
    Literal["file", "paragraph", "line"],
    typer.Option(help="How .txt and .md files become texts."),
]
TextField = Annotated[str, typer.Option(help="Field of .jsonl and .csv that holds the text.")]
IdField = Annotated[str, typer.Option(help="Field of .jsonl and .csv that holds the id.")]
TooLongOption = Annotated[
    Literal["truncate", "error"],
    typer.Option(help="A text over the model's window: cut it and say so, or stop."),
]


def make_embedder(  # noqa: PLR0917 - handed on in one place each
    model: str,
    base_url: str | None,
    dimensions: int | None,
    rpm: int | None,
    tpm: int | None,
    sub_window: float | None,
    max_in_flight: int | None,
    batch_size: int | None,
    too_long: Literal["truncate", "error"],
) -> Embedder:
    """Return the embedder that the options describe; without any limit the provider's own."""
    from tollway.embed import Embedder  # noqa: PLC0415
    from tollway.limiter import Limits  # noqa: PLC0415

    given = (rpm, tpm, sub_window, max_in_flight)
    limits = (
        None
        if all(value is None for value in given)
        else Limits(rpm=rpm, tpm=tpm, sub_window=sub_window, max_in_flight=max_in_flight)
    )
    return Embedder(
        model,
        limits=limits,
        batch_size=batch_size,
        too_long=too_long,
        base_url=base_url,
        dimensions=dimensions,
    )
