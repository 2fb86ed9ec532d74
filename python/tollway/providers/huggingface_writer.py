"""From the tokens that a model of transformers generates to pieces of text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tollway.providers.thinking import overlap

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from collections.abc import Set as AbstractSet

__all__ = ["TextWriter"]


class TextWriter:
    """Makes text of tokens as they come, and ends it at a stop text.

    Args:
        tokenizer: Of the model.
        end_ids: Tokens that end an answer.
        stop: Texts that end it and are no part of it.
        emit: Called with each piece of text.
        with_special: Whether special tokens are part of the text.

    Attributes:
        count: New tokens.
        is_done: Whether a stop text or the model's own end was met.
    """

    def __init__(
        self,
        tokenizer: Any,
        end_ids: AbstractSet[int],
        stop: Sequence[str],
        emit: Callable[[str], object],
        *,
        with_special: bool,
    ) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._emit = emit
        self._skips = not with_special
        self._end_ids = end_ids
        self._ids: list[int] = []
        self._from = self._to = 0
        self._held = ""
        self._written: list[str] = []
        self._is_prompt = True
        self.count = 0
        self.is_done = False

    @property
    def text(self) -> str:
        """All that was written."""
        return "".join(self._written)

    def put(self, value: Any) -> None:
        """Take the prompt, then each new token."""
        if self._is_prompt:
            self._is_prompt = False
            return
        if self.is_done:
            return  # the step that was under way
        for token in value.reshape(-1).tolist():
            self.count += 1
            if token in self._end_ids:
                self.is_done = True
            else:
                self._ids.append(token)
        if not self.is_done:
            self._add(self._fresh(is_last=False))

    def end(self) -> None:
        """Pass on what was held back."""
        if self._ids or self._held:
            self._add(self._fresh(is_last=True))
            self._pass_on(self._held)
            self._ids, self._held = [], ""

    def _fresh(self, *, is_last: bool) -> str:
        """Return the text of the tokens since the last time; a character is given whole."""
        known = self._decoded(self._ids[self._from : self._to])
        text = self._decoded(self._ids[self._from :])
        # Half a character shows as U+FFFD until its other half is there.
        if len(text) <= len(known) or (text.endswith("\ufffd") and not is_last):
            return ""
        self._from, self._to = self._to, len(self._ids)
        return text[len(known) :]

    def _decoded(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=self._skips)
        return text

    def _add(self, text: str) -> None:
        held = self._held + text
        found = [place for stop in self._stop if (place := held.find(stop)) >= 0]
        if found:
            self.is_done = True
            self._ids, self._from, self._to = [], 0, 0
            self._held = ""
            self._pass_on(held[: min(found)])
            return
        keep = max((overlap(held, stop) for stop in self._stop), default=0)
        self._held = held[len(held) - keep :]
        self._pass_on(held[: len(held) - keep])

    def _pass_on(self, text: str) -> None:
        if text:
            self._written.append(text)
            self._emit(text)
