"""`tollway simulate`: a provider on this machine."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path  # noqa: TC003 - typer reads the annotations at run time
from typing import TYPE_CHECKING, Annotated

import typer

from tollway.cli.signals import stop_on_signals

if TYPE_CHECKING:
    from tollway.simulator import Ledger, Simulator

__all__ = ["simulate"]

# Written out: the list in tollway.simulator comes with numpy, which `--help` need not load.
_FAULT_HELP = """A fault and its share of requests, 0 to 1; repeatable. Faults: 500, 503, 429,
insufficient_quota, delay, disconnect, truncated, permuted, missing_row, null_row, nan_row,
short_row, duplicate_index, content_filter, error_body, empty_answer, unfinished, stream_error,
no_usage."""


def simulate(  # noqa: PLR0917 - typer makes options of them
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes any free one.")] = 0,
    rpm: Annotated[int | None, typer.Option(help="Requests a minute; no limit if absent.")] = None,
    tpm: Annotated[int | None, typer.Option(help="Tokens a minute; no limit if absent.")] = None,
    sub_window: Annotated[
        float,
        typer.Option(help="Seconds in which requests are judged as well; 0 switches it off."),
    ] = 1.0,
    latency: Annotated[float, typer.Option(help="Seconds that each answer takes.")] = 0.0,
    fault: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=RATE", help=_FAULT_HELP),
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides which requests meet a fault.")] = 0,
    ledger: Annotated[
        Path | None, typer.Option(help="File for one JSON line a request, added at its end.")
    ] = None,
    dimensions: Annotated[
        int | None, typer.Option(help="Size of the vectors; the model's own if absent.")
    ] = None,
) -> None:
    """Serve as a provider on this machine.

    It speaks the wire formats of OpenAI, and without /v1 those of Azure, Anthropic, Gemini,
    Bedrock and Ollama, with limits and faults. Ctrl-C ends it, and prints what arrived.
    """
    # The server and numpy are needed here only: the other commands start without them.
    from tollway.simulator import Faults, Simulator  # noqa: PLC0415

    simulator = Simulator(
        rpm=rpm,
        tpm=tpm,
        sub_window=sub_window,
        latency=latency,
        faults=Faults(_rates(fault or []), seed=seed),
        dimensions=dimensions,
        port=port,
        ledger=ledger,
    )
    try:
        asyncio.run(_serve(simulator))
    except KeyboardInterrupt:
        typer.echo(_summary(simulator.ledger))


async def _serve(simulator: Simulator) -> None:
    stop_on_signals()
    async with simulator:
        url = simulator.base_url
        typer.echo(f"{url}  export OPENAI_BASE_URL={url} OPENAI_API_KEY=any")
        # What was loaded stays. Looked through by a collection, it stops the clock for some 30 ms,
        # and requests seem to come together that did not.
        gc.collect()
        gc.freeze()
        await asyncio.Event().wait()


def _rates(given: list[str]) -> dict[str, float]:
    rates: dict[str, float] = {}
    for item in given:
        name, _, rate = item.partition("=")
        try:
            rates[name] = float(rate)
        except ValueError as error:
            raise typer.BadParameter(
                f"{item!r} is not NAME=RATE, as in 500=0.01", param_hint="--fault"
            ) from error
    return rates


def _summary(ledger: Ledger) -> str:
    statuses = ", ".join(
        f"{'no answer' if status is None else status} {count:,}"
        for status, count in ledger.statuses().most_common()
    )
    lines = [
        f"requests {len(ledger):,}" + (f" ({statuses})" if statuses else ""),
        f"tokens   {ledger.tokens():,} admitted",
    ]
    for seconds in (1, 60):
        requests, tokens = ledger.worst_window(seconds)
        lines.append(f"worst {seconds:>2} s: {requests:,} requests, {tokens:,} tokens")
    return "\n".join(lines)
