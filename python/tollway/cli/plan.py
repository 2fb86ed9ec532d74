"""`tollway plan`: what a job would take."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from tollway.cli import options as o
from tollway.embed.embedder import DEFAULT_MODEL

__all__ = ["plan"]


def plan(  # noqa: PLR0917 - typer makes options of them
    source: o.Input,
    model: o.Model = DEFAULT_MODEL,
    base_url: o.BaseUrl = None,
    dimensions: o.Dimensions = None,
    rpm: o.Rpm = None,
    tpm: o.Tpm = None,
    sub_window: o.SubWindow = None,
    max_in_flight: o.MaxInFlight = None,
    batch_size: o.BatchSize = None,
    split: o.SplitBy = "file",
    text_field: o.TextField = "text",
    id_field: o.IdField = "id",
    too_long: o.TooLongOption = "truncate",
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Say what embedding SOURCE would take, without sending anything."""
    from tollway.embed import plan as make_plan  # noqa: PLC0415

    embedder = o.make_embedder(
        model,
        base_url,
        dimensions,
        rpm,
        tpm,
        sub_window,
        max_in_flight,
        batch_size,
        too_long,
    )
    planned = make_plan(source, embedder, split=split, text_field=text_field, id_field=id_field)
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
        f"time      {planned.seconds:,.0f} s at the least, for the limits",
    ]
    if planned.truncated:
        lines.append(f"cut       {len(planned.truncated):,} texts over the model's window")
    typer.echo("\n".join(lines))
