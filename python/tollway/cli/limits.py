"""`tollway limits`: what the limiters hold that processes share by name."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tollway.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from tollway.limiter import SharedLimiter

__all__ = ["limits"]

# Seconds between two looks with --watch.
_EVERY = 0.25


def limits(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A shared limiter; all of them if absent.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on showing it, 4 times a second, until Ctrl-C.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a look, for programs.")
    ] = False,
) -> None:
    """Show limiters that processes share by name.

    Their windows, requests in flight, and who waits. Takes nothing from them, and is in
    nobody's way.
    """
    # Rich is needed here only: the other commands start without it.
    from rich.console import Console  # noqa: PLC0415

    from tollway.limiter import list_shared_limiters, look_at_shared_limiter  # noqa: PLC0415

    if name is None:
        if watch:
            raise typer.BadParameter("it needs the name of one limiter", param_hint="--watch")
        _list(list_shared_limiters(), look_at_shared_limiter, as_json=as_json)
        return

    def look() -> SharedLimiter:
        seen = look_at_shared_limiter(name)
        if seen is None:
            raise ConfigurationError(
                f"there is no shared limiter named {name!r}: nobody of this user has opened one "
                "since the machine was started"
            )
        return seen

    console = Console(highlight=False)
    if not watch:
        if as_json:
            _print_json(look())
        else:
            console.print(_page(look()))
        return
    try:
        if as_json or not console.is_interactive:
            _repeat(lambda: _print_json(look()) if as_json else _print_line(look()))
        else:
            _watch(look, console)
    except KeyboardInterrupt:
        raise typer.Exit from None


def _watch(look: Callable[[], SharedLimiter], console: Any) -> None:
    from rich.live import Live  # noqa: PLC0415

    with Live(_page(look()), console=console, auto_refresh=False, screen=False) as live:
        _repeat(lambda: live.update(_page(look()), refresh=True))


def _repeat(show: Callable[[], None]) -> None:
    due = time.monotonic()
    while True:
        show()
        due = max(due + _EVERY, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))


def _list(
    names: list[str], look_at: Callable[[str], SharedLimiter | None], *, as_json: bool
) -> None:
    width = max(map(len, names), default=0)
    is_empty = True
    for name in names:
        try:
            look = look_at(name)
        except ConfigurationError as error:
            # One that cannot be read, of another version say, hides no other.
            typer.echo(f"{name:<{width}}  {error}", err=as_json)
            is_empty = False
            continue
        if look is None:
            continue
        is_empty = False
        if as_json:
            _print_json(look)
        else:
            typer.echo(f"{name:<{width}}  {_processes(look)}  {look.limits}")
    if is_empty and not as_json:
        typer.echo("no limiter is shared on this machine by this user")


def _processes(look: SharedLimiter) -> str:
    count = len(look.participants)
    return f"{count} limiter{'' if count == 1 else 's'}" if count else "nobody"


def _page(look: SharedLimiter) -> RenderableType:
    from rich.console import Group  # noqa: PLC0415
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    snapshot = look.snapshot
    windows = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("window", "of", "used", "limit", "remaining", "share", "next"):
        windows.add_column(column, justify="left" if column == "window" else "right")
    for window in snapshot.windows:
        share = window.used / window.limit
        lowered = window.limit < window.configured
        windows.add_row(
            window.name,
            _seconds(window.seconds),
            f"{window.used:,}",
            f"{window.limit:,}" + (f" (of {window.configured:,})" if lowered else ""),
            f"{window.remaining:,}",
            f"[{_colour(share)}]{share:.1%}[/]",
            "now" if window.next_in == 0.0 else f"in {_seconds(window.next_in)}",
        )
    most = look.limits.max_in_flight
    facts = [
        f"in flight {snapshot.in_flight:,}" + ("" if most is None else f" of {most:,}"),
        f"waiting in {snapshot.waiting:,} of {len(look.participants):,} limiters",
    ]
    if snapshot.rate_limited:
        facts.append(f"429s {snapshot.rate_limited:,}")
    if snapshot.paused_for:
        facts.append(f"[yellow]paused for {_seconds(snapshot.paused_for)}[/]")
    processes = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("process", "in flight", "first who waits"):
        processes.add_column(column, justify="left" if column.startswith("first") else "right")
    for participant in look.participants:
        head = "-"
        if participant.head_due is not None:
            due = _seconds(participant.head_due)
            head = "due now" if participant.head_due == 0.0 else f"due in {due}"
            if participant.head_tokens:
                head += f", at most {participant.head_tokens:,} tokens"
        processes.add_row(str(participant.process), f"{participant.in_flight:,}", head)
    held = processes if look.participants else "[dim]nobody takes part now[/]"
    title = f"[bold]{escape(look.name)}[/]  {escape(str(look.limits))}"
    return Group(title, "", windows, "", "  ".join(facts), "", held)


def _colour(share: float) -> str:
    return "green" if share < 0.8 else "yellow" if share < 1.0 else "red"


def _seconds(seconds: float) -> str:
    if seconds < 1.0:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 600.0:
        return f"{seconds:.4g} s"
    return f"{seconds / 3600:.1f} h"


def _print_line(look: SharedLimiter) -> None:
    windows = "  ".join(
        f"{window.name} {window.used:,}/{window.limit:,}" for window in look.snapshot.windows
    )
    line = (
        f"{time.strftime('%H:%M:%S')}  {windows}  in flight {look.snapshot.in_flight:,}"
        f"  waiting in {look.snapshot.waiting:,} of {len(look.participants):,}"
    )
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _print_json(look: SharedLimiter) -> None:
    snapshot = look.snapshot
    windows = [
        {
            "name": window.name,
            "seconds": window.seconds,
            "limit": window.limit,
            "configured": window.configured,
            "used": window.used,
            "remaining": window.remaining,
            "next_in": window.next_in,
        }
        for window in snapshot.windows
    ]
    participants = [
        {
            "process": participant.process,
            "in_flight": participant.in_flight,
            "head_due": participant.head_due,
            "head_tokens": participant.head_tokens,
        }
        for participant in look.participants
    ]
    described = {
        "name": look.name,
        "limits": str(look.limits),
        "margin": look.margin,
        "windows": windows,
        "in_flight": snapshot.in_flight,
        "rate_limited": snapshot.rate_limited,
        "paused_for": snapshot.paused_for,
        "participants": participants,
    }
    sys.stdout.write(json.dumps(described) + "\n")
    sys.stdout.flush()
