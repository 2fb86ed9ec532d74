"""`tollway complete`: one prompt to a model, its answer as it comes."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tollway.cli.reading import read_text
from tollway.cli.signals import stop_on_signals, stopped

if TYPE_CHECKING:
    from tollway.types import Attempt, Completion

__all__ = ["complete"]


def complete(  # noqa: PLR0917 - typer makes options of them
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="What to ask; - reads it from stdin.")
    ],
    model: Annotated[str, typer.Option(help="provider/model, such as openai/gpt-4o-mini.")],
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    base_url: Annotated[
        str | None, typer.Option(help="Address of the provider or a compatible server.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="The most tokens of the answer; default 4000.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="Default 0, where the model takes one.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the whole answer, usage and cost as JSON.")
    ] = False,
) -> None:
    """Ask a model, and print its answer as it comes.

    The key comes from the provider's own variable, such as OPENAI_API_KEY. The answer goes to
    stdout; its tokens, cost and time, and why an attempt failed that is made again, to stderr. Exit
    codes: 0 done, 1 failed, 130 interrupted.
    """
    asked = read_text(Path("-")) if prompt == "-" else prompt
    named = {"max_tokens": max_tokens, "temperature": temperature, "system_prompt": system}
    options = {name: value for name, value in named.items() if value is not None}
    began = time.monotonic()
    try:
        answer = asyncio.run(_ask(asked, model, base_url, options, is_shown=not as_json))
    except KeyboardInterrupt:
        stopped()
        raise SystemExit(130) from None
    seconds = time.monotonic() - began
    if as_json:
        typer.echo(_as_json(answer, seconds))
    else:
        typer.echo(_in_words(answer, seconds), err=True)


async def _ask(
    prompt: str, model: str, base_url: str | None, options: dict[str, Any], *, is_shown: bool
) -> Completion:
    from tollway.chat import LLM  # noqa: PLC0415
    from tollway.retry import RetryPolicy  # noqa: PLC0415

    stop_on_signals()
    retry = RetryPolicy(on_retry=_tell)
    answer: Completion | None = None
    column = ""
    async with (
        LLM(model, base_url=base_url, retry=retry) as llm,
        llm.stream(prompt, **options) as stream,
    ):
        try:
            async for chunk in stream:
                answer = chunk.completion or answer
                if is_shown and chunk.text:
                    column = chunk.text[-1]
                    typer.echo(chunk.text, nl=False)
        finally:
            # What is printed next, an error perhaps, begins a line.
            if column not in {"", "\n"}:
                typer.echo()
    assert answer is not None  # a stream ends with its completion, or raises
    return answer


def _tell(attempt: Attempt, error: Exception, wait: float) -> None:
    """Say that it goes on: all attempts together may take minutes."""
    del attempt
    told = f"tollway: {type(error).__name__}: {error}; trying again in {wait:.1f} s"
    typer.echo(told, err=True)


def _as_json(answer: Completion, seconds: float) -> str:
    return json.dumps(
        {
            "text": answer.text,
            "finish_reason": answer.finish_reason,
            "model": answer.answered_by,
            "input_tokens": answer.usage.input_tokens,
            "output_tokens": answer.usage.output_tokens,
            "estimated": answer.usage.estimated,
            "cost": answer.cost,
            "seconds": round(seconds, 3),
        },
        ensure_ascii=False,
        indent=2,
    )


def _in_words(answer: Completion, seconds: float) -> str:
    usage, about = answer.usage, "about " if answer.usage.estimated else ""
    words = [f"{about}{usage.input_tokens:,} + {usage.output_tokens:,} tokens"]
    words += [] if answer.cost is None else [f"${answer.cost:.4f}"]
    words.append(f"{seconds:.1f} s")
    if answer.finish_reason != "stop":
        words.append(f"ended by {answer.finish_reason}")
    return " · ".join(words)
