"""The options that `embed` and `plan` share, and the embedder and input that they describe."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from tollway.embed.embedder import DEFAULT_MODEL

if TYPE_CHECKING:
    from collections.abc import Callable

    from tollway.embed import Embedder

__all__ = ["EmbedOptions", "Input", "takes_embed_options"]

Input = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE",
        help="A .txt, .md, .jsonl, .csv or .parquet file, a folder of them, or - for stdin.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """One field an option of the command line, in the order of `--help`."""

    model: Annotated[
        str, typer.Option(help="provider/model, such as openai/text-embedding-3-small.")
    ] = DEFAULT_MODEL
    base_url: Annotated[
        str | None, typer.Option(help="Address of an OpenAI-compatible server, up to /v1.")
    ] = None
    dimensions: Annotated[
        int | None, typer.Option(min=1, help="Shorter vectors, where the model can.")
    ] = None
    rpm: Annotated[int | None, typer.Option(min=1, help="Requests a minute.")] = None
    tpm: Annotated[int | None, typer.Option(min=1, help="Tokens a minute.")] = None
    sub_window: Annotated[
        float | None,
        typer.Option(
            help="Seconds over which --rpm is judged too; default 1 for openai, 0 for off."
        ),
    ] = None
    max_in_flight: Annotated[
        int | None, typer.Option(min=1, help="Requests under way at once.")
    ] = None
    max_cost: Annotated[
        float | None,
        typer.Option(min=0, help="US dollars: the request that would exceed them is not sent."),
    ] = None
    mode: Annotated[
        Literal["direct", "batch"],
        typer.Option(
            help="Send requests now, or hand the texts to the provider's batch API: half the "
            "price, vectors within a day (openai)."
        ),
    ] = "direct"
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Texts a request; default about 128, by the limits.")
    ] = None
    packing: Annotated[
        Literal["balanced", "fewest"],
        typer.Option(help="Requests of a good size in order, or the fewest in any order."),
    ] = "balanced"
    split: Annotated[
        Literal["file", "paragraph", "line"],
        typer.Option(help="How .txt and .md files become texts."),
    ] = "file"
    chunk: Annotated[
        int | None, typer.Option(min=4, help="Split texts into chunks of so many tokens.")
    ] = None
    overlap: Annotated[
        int, typer.Option(min=0, help="Tokens that a chunk repeats of the one before.")
    ] = 0
    text_field: Annotated[
        str, typer.Option(help="Field of .jsonl, .csv and .parquet that holds the text.")
    ] = "text"
    id_field: Annotated[
        str, typer.Option(help="Field of .jsonl, .csv and .parquet that holds the id.")
    ] = "id"
    format: Annotated[
        Literal["csv", "jsonl", "md", "parquet", "txt"] | None,
        typer.Option(help="What the input is, where its name does not tell; stdin is looked at."),
    ] = None
    too_long: Annotated[
        Literal["truncate", "error", "average"],
        typer.Option(
            help="A text over the model's window: cut it and say so, stop, or average its chunks."
        ),
    ] = "truncate"
    prompt: Annotated[
        str, typer.Option(help="Put before every text, such as 'passage: ' for E5 models.")
    ] = ""
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Scale every vector to unit length.")
    ] = False
    dtype: Annotated[
        Literal["float32", "float16"], typer.Option(help="Of the vectors that are written.")
    ] = "float32"

    def embedder(self, api_key: str | None = None) -> Embedder:
        """Return the embedder that is described; without any limit the provider's own.

        Args:
            api_key: Else from the environment.
        """
        from tollway.embed import Embedder  # noqa: PLC0415
        from tollway.limiter import Limits  # noqa: PLC0415

        limits = Limits(
            rpm=self.rpm,
            tpm=self.tpm,
            sub_window=self.sub_window,
            max_in_flight=self.max_in_flight,
        )
        return Embedder(
            self.model,
            limits=None if limits == Limits() else limits,
            max_cost=self.max_cost,
            batch_size=self.batch_size,
            packing=self.packing,
            too_long=self.too_long,
            normalize=self.normalize,
            dtype=self.dtype,
            prompt=self.prompt,
            api_key=api_key,
            base_url=self.base_url,
            dimensions=self.dimensions,
        )

    @property
    def reading(self) -> dict[str, Any]:
        """The options of `embed_job` that say how the input is read."""
        names = ("chunk", "overlap", "split", "text_field", "id_field", "format")
        return {name: getattr(self, name) for name in names}


def takes_embed_options(command: Callable[..., None]) -> Callable[..., None]:
    """Make a command with a parameter `options` take each field of `EmbedOptions` instead."""
    names = {field.name for field in dataclasses.fields(EmbedOptions)}

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        shared = {name: given.pop(name) for name in names & given.keys()}
        command(**given, options=EmbedOptions(**shared))

    # The command line's library reads a function's signature.
    own = inspect.signature(command).parameters.values()
    hints = {
        **get_type_hints(command, include_extras=True),
        **get_type_hints(EmbedOptions, include_extras=True),
    }
    parameters = [
        inspect.Parameter(
            each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=kind
        )
        for each in _in_order(own)
        for kind in [hints[each.name]]
    ]
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {each.name: each.annotation for each in parameters}
    return wrapped


def _in_order(own: Any) -> list[inspect.Parameter]:
    """A command's own arguments and options, with the shared ones in the place of `options`."""
    shared = inspect.signature(EmbedOptions).parameters.values()
    return [each for one in own for each in (shared if one.name == "options" else [one])]
