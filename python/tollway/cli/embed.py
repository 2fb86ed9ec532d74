"""`tollway embed`: documents to a `.npy` or `.parquet` of vectors, resumably."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import math
import sys
import time
from pathlib import Path  # noqa: TC003 - typer reads the annotations at run time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tollway.cli.options import EmbedOptions, Input, takes_embed_options
from tollway.cli.signals import stop_on_signals, stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sized

    from tollway.embed import Embedder, JobReport, Progress

__all__ = ["embed"]

# Seconds between lines where there is no terminal.
_LINE_INTERVAL = 5.0

# Failed texts that are shown; all are in the report of --json.
_SHOWN = 10


@takes_embed_options
def embed(
    source: Input,
    output: Annotated[
        Path,
        typer.Argument(metavar="OUTPUT", help="The .npy or .parquet to write: row i for text i."),
    ],
    options: EmbedOptions,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the closing report as JSON.")
    ] = False,
) -> None:
    """Embed SOURCE into OUTPUT. Run it again after anything: finished rows are not sent twice.

    The key comes from the provider's own variable, such as OPENAI_API_KEY. Progress goes to
    stderr, the report to stdout. Exit codes: 0 done, 1 failed, 3 done but some texts have no
    vector, 130 interrupted.
    """
    embedder = options.embedder()
    try:
        running = _run(source, output, embedder, mode=options.mode, **options.reading)
        report = asyncio.run(running)
    except KeyboardInterrupt:
        stopped()
        left = "" if options.mode == "direct" else "Batches go on at the provider. "
        sys.stderr.write(
            "tollway: interrupted; every finished row is kept. "
            f"{left}Run the same command again to go on from there.\n"
        )
        raise SystemExit(130) from None
    typer.echo(_as_json(report, embedder) if as_json else _as_text(report, embedder))
    if report.errors:
        raise SystemExit(3)


async def _run(source: Path, output: Path, embedder: Embedder, **reading: Any) -> JobReport:
    from tollway.embed import embed_job_async  # noqa: PLC0415

    stop_on_signals()
    async with embedder:
        with _progress() as show:
            return await embed_job_async(source, output, embedder, on_progress=show, **reading)


@contextlib.contextmanager
def _progress() -> Generator[Callable[[Progress], None]]:
    """Show progress as a bar on a terminal, else as a JSON line every few seconds."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, TextColumn  # noqa: PLC0415
    from rich.progress import Progress as Bar  # noqa: PLC0415
    from rich.table import Column  # noqa: PLC0415

    console = Console(stderr=True)
    if not console.is_interactive:
        # Such as TERM=dumb, where a line is not written twice: a bar would show at the end only.
        yield _lines()
        return
    # The bar takes what the words leave of the line.
    bar = Bar(
        BarColumn(None, table_column=Column(ratio=1)),
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        console=console,
        expand=True,
    )
    news, texts = _news(), 0
    with bar:
        task = bar.add_task("reading", total=None)

        def show(progress: Progress) -> None:
            nonlocal texts
            if (reason := news(progress)) is not None:
                bar.console.print(
                    f"retrying: {reason}", markup=False, highlight=False, soft_wrap=True
                )
            words = _in_words(progress)
            if progress.texts == texts and progress.tally.retrying is not None:
                # A bar that stands still says why.
                words += f" · {_kind(progress.tally.retrying)}"
            texts = progress.texts
            bar.update(task, completed=progress.texts, total=progress.total, description=words)

        yield show


def _news() -> Callable[[Progress], str | None]:
    """Return what tells why attempts fail: each kind of reason once, when it is first met."""
    told: set[str] = set()

    def news(progress: Progress) -> str | None:
        reason = progress.tally.retrying
        if reason is None or _kind(reason) in told:
            return None
        told.add(_kind(reason))
        return reason

    return news


def _kind(reason: str) -> str:
    return reason.partition(":")[0]


def _in_words(progress: Progress) -> str:
    """About 80 characters at the most, the dearest to lose last."""
    tally, batches = progress.tally, progress.batches
    total = "?" if progress.total is None else f"{progress.total:,}"
    words = [f"{progress.texts:,}/{total}"]
    if batches is None:
        words.append(f"{_short(progress.rate)}/s")
        if progress.eta is not None:
            words.append(f"{_clock(progress.eta)} left")
    else:
        words.append(f"{batches.stage} {batches.batches}+{batches.waiting} batches")
        words.append(f"{_short(batches.finished)}/{_short(batches.submitted)} done")
    words.append(f"{_short(tally.usage.input_tokens)} tokens")
    if batches is not None and batches.failed:
        words.append(f"{_short(batches.failed)} failed")
    if progress.cost:
        words.append(f"${progress.cost:,.2f}" if progress.cost >= 0.01 else f"${progress.cost:.4f}")
    if tally.rate_limited:
        words.append(f"{_short(tally.rate_limited)}x429")
    if tally.retries:
        words.append("1 retry" if tally.retries == 1 else f"{_short(tally.retries)} retries")
    if tally.hedges:
        words.append("1 hedge" if tally.hedges == 1 else f"{_short(tally.hedges)} hedges")
    return " · ".join(words)


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds: 0:05, 12:34, 1:23:45."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _short(count: float) -> str:
    """Three digits: 950, 1.23k, 45.6M."""
    units = ["G", "M", "k", ""]
    while count >= 999.5 and len(units) > 1:
        count /= 1000
        units.pop()
    return f"{count:.3g}{units[-1]}"


def _lines() -> Callable[[Progress], None]:
    due, news = time.monotonic() + _LINE_INTERVAL, _news()

    def show(progress: Progress) -> None:
        nonlocal due
        now, reason = time.monotonic(), news(progress)
        if now < due and reason is None:
            return
        due = now + _LINE_INTERVAL
        tally = progress.tally
        line: dict[str, Any] = {
            "texts": progress.texts,
            "total": progress.total,
            "rate": round(progress.rate, 1),
            "eta": None if progress.eta is None else round(progress.eta, 1),
            "tokens": tally.usage.input_tokens,
            "cost": progress.cost,
            "requests": tally.sent,
            "rate_limited": tally.rate_limited,
            "retries": tally.retries,
            "hedges": tally.hedges,
            "retrying": tally.retrying,
            "seconds": round(progress.seconds, 1),
        }
        if progress.batches is not None:
            line["batches"] = dataclasses.asdict(progress.batches)
        sys.stderr.write(json.dumps(line) + "\n")

    return show


def _as_json(report: JobReport, embedder: Embedder) -> str:
    return json.dumps(
        {
            "output": str(report.output),
            "model": embedder.model,
            "dtype": embedder.dtype,
            "texts": report.texts,
            "dimensions": report.dimensions,
            "distinct": report.distinct,
            "reused": report.reused,
            "tokens": report.usage.input_tokens,
            "estimated": report.usage.estimated,
            "requests": report.requests,
            "retries": report.retries,
            "rate_limited": report.rate_limited,
            "hedges": report.hedges,
            "budget_wait": round(report.budget_wait, 3),
            "cost": report.cost,
            "seconds": round(report.seconds, 3),
            "truncated": report.truncated,
            "errors": [{"id": error.id, "error": error.error} for error in report.errors],
        },
        ensure_ascii=False,
        indent=2,
    )


def _as_text(report: JobReport, embedder: Embedder) -> str:
    about = "about " if report.usage.estimated else ""
    cost = "unknown" if report.cost is None else f"${report.cost:,.4f}"
    counted = (
        (report.retries, "retry" if report.retries == 1 else "retries"),
        (report.rate_limited, "refused with 429"),
        (report.hedges, "hedge" if report.hedges == 1 else "hedges"),
    )
    troubles = ", ".join(f"{count:,} {what}" for count, what in counted if count)
    rows = [
        ("output", f"{report.output}  {embedder.dtype} ({report.texts:,}, {report.dimensions})"),
        ("model", embedder.model),
        (
            "texts",
            f"{report.texts:,} ({report.distinct:,} distinct, {report.reused:,} from before)",
        ),
        ("tokens", f"{about}{report.usage.input_tokens:,}"),
        ("requests", f"{report.requests:,}" + (f" ({troubles})" if troubles else "")),
        ("cost", cost),
        ("time", f"{report.seconds:,.1f} s"),
    ]
    if report.truncated:
        more = ", …" if len(report.truncated) > _SHOWN else ""
        names = ", ".join(report.truncated[:_SHOWN])
        rows.append(("cut", f"{_texts(report.truncated)} to the model's window: {names}{more}"))
    if report.errors:
        rows.append(("failed", f"{_texts(report.errors)}; run again to try again"))
    lines = [f"{name:<9} {value}" for name, value in rows]
    lines += [f"  {error.id}: {error.error}" for error in report.errors[:_SHOWN]]
    return "\n".join(lines)


def _texts(those: Sized) -> str:
    return "1 text" if len(those) == 1 else f"{len(those):,} texts"
