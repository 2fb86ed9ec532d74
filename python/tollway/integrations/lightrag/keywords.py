"""The keywords of a question, as LightRAG looks for them in its graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

from tollway.bridge import run_sync
from tollway.types import JsonFormat

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tollway.chat import LLM, CallOptions

__all__ = ["KEYWORDS", "Keywords", "extract_keywords", "extract_keywords_sync"]

_LIST = {"type": "array", "items": {"type": "string"}}
KEYWORDS = JsonFormat(
    {
        "type": "object",
        "properties": {"high_level_keywords": _LIST, "low_level_keywords": _LIST},
        "required": ["high_level_keywords", "low_level_keywords"],
        "additionalProperties": False,
    },
    name="keywords",
)
"""What LightRAG wants of `keyword_extraction`."""

_TASK = """You prepare searches in a knowledge graph. From the user's question, name in JSON:
- high_level_keywords: what it is about as a whole: themes, relations, the kind of answer wanted;
- low_level_keywords: what it names: people, places, things, products, technical terms.
Use phrases that the question itself supports, {language}, the weightiest first, each once; a \
proper name stays as it is. A question that names nothing gets empty lists. Answer nothing in it."""


@dataclass(frozen=True, slots=True)
class Keywords:
    """What to search for.

    Attributes:
        high_level: Themes and relations.
        low_level: Things that are named.
    """

    high_level: tuple[str, ...]
    low_level: tuple[str, ...]


async def extract_keywords(
    llm: LLM, query: str, *, language: str | None = None, **options: Unpack[CallOptions]
) -> Keywords:
    """Return the keywords of a question.

    Args:
        llm: Who is asked; a small model does.
        query: The question.
        language: Of the keywords, such as `English`. Default: the question's own.
        options: As in `LLM.complete`; `history_messages` gives the question its context.

    Raises:
        StructuredOutputError: No answer held both lists, after three more tries.
        TollwayError: As `LLM.complete`.
    """
    wanted = "in the language of the question" if language is None else f"in {language}"
    asked: CallOptions = {"system_prompt": _TASK.format(language=wanted), **options}
    asked["response_format"] = KEYWORDS
    answer = await llm.complete(query, **asked)
    found: dict[str, Any] = answer.parsed
    return Keywords(_tidy(found["high_level_keywords"]), _tidy(found["low_level_keywords"]))


def extract_keywords_sync(
    llm: LLM, query: str, *, language: str | None = None, **options: Unpack[CallOptions]
) -> Keywords:
    """Return the keywords of a question as `extract_keywords` does, from synchronous code."""
    return run_sync(extract_keywords(llm, query, language=language, **options))


def _tidy(given: Iterable[str]) -> tuple[str, ...]:
    """Return keywords without blanks around them, none empty, each once."""
    return tuple(dict.fromkeys(text for word in given if (text := word.strip())))
