"""Whether a model can be reached, asked without paying for an answer."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from tollway.errors import CircuitOpenError, TollwayError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tollway.chat.path import CallPath
    from tollway.providers.base import Checked

__all__ = ["Availability", "availability_of"]

# Of the names that a server lists, those to show where the model is not among them.
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a model can be reached; true where it can.

    Attributes:
        ok: None where that cannot be told without paying.
        reason: Why it is so, in words; never with a key.
        models: Names of the models that the server lists, if it does.
        seconds: That the check took.
    """

    ok: bool | None
    reason: str
    models: Sequence[str] = ()
    seconds: float = 0.0

    def __bool__(self) -> bool:
        """Whether the model can be reached for sure."""
        return self.ok is True


async def availability_of(paths: Sequence[CallPath], timeout: float) -> Availability:
    """Check models at the same time; several are available where one of them is."""
    if len(paths) == 1:
        return await _checked(paths[0], timeout)
    every = await asyncio.gather(*(_checked(path, timeout) for path in paths))
    best = next((one for one in every if one), None)
    ok = True if best else None if any(one.ok is None for one in every) else False
    reason = "; ".join(
        f"{path.model}: {one.reason}" for path, one in zip(paths, every, strict=True)
    )
    listed = dict.fromkeys(name for one in every for name in one.models)
    return Availability(ok, reason, tuple(listed), max(one.seconds for one in every))


async def _checked(path: CallPath, timeout: float) -> Availability:
    began = time.monotonic()
    try:
        ok, reason, models = await _asked(path, timeout)
    except TimeoutError:
        ok, reason, models = False, f"no answer within {timeout:g} s", ()
    except TollwayError as error:
        ok, reason, models = False, f"{type(error).__name__}: {error}", ()
    return Availability(ok, reason, tuple(models), time.monotonic() - began)


async def _asked(path: CallPath, timeout: float) -> tuple[bool | None, str, Sequence[str]]:
    provider = cast("Any", path.provider)
    try:
        path.breaker.check()
    except CircuitOpenError as error:
        return False, f"{type(error).__name__}: {error}", ()
    async with asyncio.timeout(timeout):
        await provider.open()
        if getattr(provider, "check", None) is None:
            return None, f"{path.model} offers no check that is free of charge", ()
        found: Checked = await provider.check()
    if found.has_model is False:
        some = ", ".join(found.models[:_SHOWN]) or "none"
        more = f" and {len(found.models) - _SHOWN} more" if len(found.models) > _SHOWN else ""
        return False, f"there is no model of this name; there are {some}{more}", found.models
    unsure = "" if found.has_model else "; whether it has the model, that does not tell"
    return True, f"answered when asked for {found.by}{unsure}", found.models
