"""Tasks and the models that do them."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from tollway.bridge import Closing
from tollway.chat.llm import LLM
from tollway.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Roles"]


class Roles(Closing):
    """The model of each task: `roles["extract"]` is an `LLM`, the same one every time.

        roles = Roles(default="openai/gpt-4o-mini", vision="openai/gpt-4o")
        await roles["extract"].complete("…")

    Roles of one name of a model share one `LLM`. The names of roles are the user's; `extract`,
    `keywords`, `query` and `vision` are those of the integrations.

    Args:
        default: For every role that is not named: `provider/model`, or an `LLM` with options of its
            own. Without it a role that is not named is an error.
        roles: By name of the role.

    Raises:
        ConfigurationError: As `LLM` does, of any of them; or there are none at all.
    """

    def __init__(self, *, default: str | LLM | None = None, **roles: str | LLM) -> None:
        if default is None and not roles:
            raise ConfigurationError('there is no role: Roles(default="openai/gpt-4o-mini")')
        made: dict[str, LLM] = {}

        def model(given: str | LLM) -> LLM:
            if isinstance(given, str):
                return made[given] if given in made else made.setdefault(given, LLM(given))
            return given

        self._default = None if default is None else model(default)
        self._roles = {name: model(given) for name, given in roles.items()}

    def __repr__(self) -> str:
        """Show the model of each role."""
        named = [f"{name}={llm.model!r}" for name, llm in self._roles.items()]
        if self._default is not None:
            named.insert(0, f"default={self._default.model!r}")
        return f"Roles({', '.join(named)})"

    def __getitem__(self, role: str) -> LLM:
        """Return the model of a role.

        Raises:
            ConfigurationError: The role is not named, and there is no default.
        """
        llm = self._roles.get(role, self._default)
        if llm is None:
            near = difflib.get_close_matches(role, self._roles, 1)
            raise ConfigurationError(
                f"no model for the role {role!r}{f' (did you mean {near[0]}?)' if near else ''}; "
                f"there are {', '.join(self._roles)}: name it, or give a default"
            )
        return llm

    def __contains__(self, role: object) -> bool:
        """Whether a role is named: it does not fall to the default."""
        return role in self._roles

    def __iter__(self) -> Iterator[str]:
        """Return the names of the roles that are named."""
        return iter(self._roles)

    async def aclose(self) -> None:
        """Close the connections of all models that were opened for this event loop."""
        every = [*self._roles.values(), *([] if self._default is None else [self._default])]
        for llm in dict.fromkeys(every):
            await llm.aclose()
