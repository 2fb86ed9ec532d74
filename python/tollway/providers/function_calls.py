"""How a function of the user's own is called: async or not, whole or piece by piece."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import threading
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, cast

from tollway.errors import (
    APIConnectionError,
    APITimeoutError,
    BadResponseError,
    ConfigurationError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Hashable

__all__ = ["Function", "in_thread", "name_of", "pieces_of"]

_END = object()


class Function:
    """A function: called in the event loop if it is async, else in a thread of its own.

    Attributes:
        named: Keyword arguments that it names.
        takes_any: Whether it takes others too.
        yields: Whether it is a generator.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        if not callable(function):
            raise ConfigurationError(f"a function is wanted, not {type(function).__name__}")
        self._function = function
        is_lazy = _is(inspect.isasyncgenfunction, function)
        self._is_async = is_lazy or _is(inspect.iscoroutinefunction, function)
        self.yields = is_lazy or _is(inspect.isgeneratorfunction, function)
        parameters: list[inspect.Parameter] = []
        with contextlib.suppress(TypeError, ValueError):  # one written in C
            parameters += inspect.signature(function).parameters.values()
        # The first is the prompt, or the texts.
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        self.named = frozenset(each.name for each in parameters[1:] if each.kind in kinds)
        self.takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters)

    @property
    def key(self) -> Hashable:
        """What is equal where the function is the same."""
        try:
            hash(self._function)
        except TypeError:
            return id(self._function)
        return self._function

    def takes(self, name: str) -> bool:
        """Whether a keyword argument may be given."""
        return self.takes_any or name in self.named

    async def __call__(
        self, given: object, arguments: dict[str, Any], *, timeout: float | None = None
    ) -> Any:
        """Call it and return what it returns.

        Args:
            given: The prompt, or the texts.
            arguments: Further ones, by name.
            timeout: Seconds that it may take.

        Raises:
            APITimeoutError: It took longer.
            APIConnectionError: It was cancelled, and not by who called it.

        Cancellation cancels an async function, and abandons the thread of another.
        """
        call = functools.partial(self._function, given, **arguments)
        async with _step(timeout):
            result: Any = call() if self._is_async else await in_thread(call)
            return await result if inspect.isawaitable(result) else result


def name_of(function: Callable[..., Any], model: str | None) -> tuple[str, str]:
    """Return (provider, model): of the model that is named, else the function's own name.

    Raises:
        ConfigurationError: What is named is not `provider/model`.
    """
    if model is not None:
        name, slash, rest = model.partition("/")
        if not (slash and name and rest):
            raise ConfigurationError(
                f"the model that a function calls is named provider/model, not {model!r}"
            )
        return name, rest
    while isinstance(function, functools.partial):
        function = function.func
    told = getattr(function, "model_name", None) or getattr(function, "__name__", None)
    return "function", str(told or type(function).__name__).strip("<>")


async def pieces_of(result: Any, *, timeout: float | None = None) -> AsyncGenerator[str, None]:
    """Return a text that a function returned, whole or as its pieces come.

    Args:
        result: What it returned.
        timeout: Seconds up to each next piece.

    Raises:
        BadResponseError: It is none, or something between its pieces is none.
        APITimeoutError: A piece took longer.
        APIConnectionError: As of a call.

    Closing it closes what the pieces are drawn from.
    """
    if isinstance(result, str):
        yield result
        return
    steps: Any = result
    if isinstance(result, Iterator):
        result = _stepped(steps)
    if not hasattr(result, "__aiter__"):
        raise BadResponseError(f"the function returned {type(result).__name__}, not a text")
    source = cast("AsyncIterator[Any]", aiter(result))
    try:
        while True:
            async with _step(timeout):
                piece: Any = await anext(source, _END)
            if piece is _END:
                return
            if not isinstance(piece, str):
                raise BadResponseError(f"the function yielded {type(piece).__name__}, not text")
            yield piece
    finally:
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()


@contextlib.asynccontextmanager
async def _step(timeout: float | None) -> AsyncGenerator[None]:
    """Bound the time in which a function does something, and name what breaks it off."""
    bound = asyncio.timeout(timeout)
    try:
        async with bound:
            yield
    except TimeoutError as error:
        if not bound.expired():
            raise
        raise APITimeoutError(f"the function gave nothing within {timeout:g} s") from error
    except asyncio.CancelledError as error:
        if cast("asyncio.Task[Any]", asyncio.current_task()).cancelling():
            raise
        # Something inside it was cancelled: passed on, it would end the caller without a word.
        raise APIConnectionError("the function was cancelled from within") from error


async def _stepped(source: Iterator[Any]) -> AsyncGenerator[Any, None]:
    """Draw from an iterator that is not async, each step in a thread."""
    step = functools.partial(next, source, _END)
    try:
        while (piece := await in_thread(step)) is not _END:
            yield piece
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            # A generator that is abandoned in its thread cannot be closed there.
            with contextlib.suppress(ValueError):
                close()


async def in_thread(call: Callable[[], Any]) -> Any:
    """Call in a daemon thread of its own: one that never returns holds up nobody.

    Cancellation abandons the result.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    run = functools.partial(contextvars.copy_context().run, call)
    threading.Thread(
        target=_run, args=(run, loop, future), name="tollway-function", daemon=True
    ).start()
    try:
        return await future
    finally:
        # The traceback of its error leads here.
        del future


def _run(
    call: Callable[[], Any], loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any]
) -> None:
    try:
        settle = functools.partial(future.set_result, call())
    except StopIteration as error:  # no future takes one
        settle = functools.partial(future.set_exception, RuntimeError(repr(error)))
    except BaseException as error:  # noqa: BLE001 - it is the caller's
        settle = functools.partial(future.set_exception, error)
    with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
        loop.call_soon_threadsafe(_settle, future, settle)
    # The traceback leads here too.
    del settle, future


def _settle(future: asyncio.Future[Any], settle: Callable[[], None]) -> None:
    if not future.done():
        settle()


def _is(kind: Callable[[Any], bool], function: Callable[..., Any]) -> bool:
    """Whether a function, or an object that is called as one, is of a kind."""
    return kind(function) or kind(inspect.getattr_static(type(function), "__call__"))
