"""`tollway plan`: what a job would take."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from typing import TYPE_CHECKING, Annotated

import typer

from tollway.cli.options import EmbedOptions, Input, takes_embed_options
from tollway.errors import ConfigurationError

if TYPE_CHECKING:
    from tollway.embed import Embedder

__all__ = ["plan"]


@takes_embed_options
def plan(
    source: Input,
    options: EmbedOptions,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Say what embedding SOURCE would take.

    Nothing is sent, and no key is needed.
    """
    from tollway.embed import plan as make_plan  # noqa: PLC0415

    planned = make_plan(source, _embedder(options), mode=options.mode, **options.reading)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(planned), ensure_ascii=False, indent=2))
        return
    about = "" if planned.exact else "about "
    cost = "unknown" if planned.cost is None else f"${planned.cost:,.4f}"
    lines = [
        f"texts     {planned.texts:,} ({planned.distinct:,} distinct)",
        f"tokens    {about}{planned.tokens:,}",
        f"requests  {planned.requests:,}",
        f"cost      {cost}",
        f"time      {planned.seconds:,.0f} s at the least, for the limits"
        if options.mode == "direct"
        else "time      within a day",
    ]
    if planned.truncated:
        lines.append(f"cut       {len(planned.truncated):,} texts over the model's window")
    typer.echo("\n".join(lines))


def _embedder(options: EmbedOptions) -> Embedder:
    try:
        return options.embedder()
    except ConfigurationError:
        # Where only the key is missing, any will do.
        with contextlib.suppress(ConfigurationError):
            return options.embedder(api_key="none")
        raise
