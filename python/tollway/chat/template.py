"""Prompts with named variables, compiled once."""

from __future__ import annotations

import difflib
import string
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tollway.errors import ConfigurationError
from tollway.types import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from collections.abc import Set as AbstractSet

__all__ = ["Template"]


class Template:
    """A prompt with variables: `Template("Summarise {text} in {language}.")`.

    `{name}` is the text of a variable, `{{` and `}}` are braces. There is nothing else: no
    attributes, no positions, no format. A value is put in as `str` gives it and never read again,
    whatever it holds. A template may be used from several threads.

    Args:
        user: What the user asks.
        system: The system prompt, which may have variables too; without it a filled template is a
            text, with it a list of two messages.

    Attributes:
        variables: Names of all variables.

    Raises:
        ConfigurationError: A brace that is not closed or not doubled, or what is not a name.
    """

    __slots__ = ("_system", "_user", "system", "user", "variables")

    def __init__(self, user: str, *, system: str | None = None) -> None:
        self.user = user
        self.system = system
        self._user, names = _compiled(user)
        self._system: str | None = None
        if system is not None:
            self._system, others = _compiled(system)
            names |= others
        self.variables: AbstractSet[str] = frozenset(names)

    def __repr__(self) -> str:
        """Show the template as it was written."""
        system = "" if self.system is None else f", system={self.system!r}"
        return f"Template({self.user!r}{system})"

    def __eq__(self, other: object) -> bool:
        """Whether both are of the same texts."""
        if not isinstance(other, Template):
            return NotImplemented
        return (self.user, self.system) == (other.user, other.system)

    def __hash__(self) -> int:
        """Return the hash of the texts."""
        return hash((self.user, self.system))

    def format(self, /, **values: object) -> str | list[Message]:
        """Return the prompt for these values: `template.format(text=…, language=…)`.

        Raises:
            ConfigurationError: A variable has no value, or a value no variable; names them.
        """
        return self._filled(values)

    def each(self, rows: Iterable[Mapping[str, object]]) -> Iterable[str | list[Message]]:
        """Return the prompts for many rows of values, made as they are drawn.

        For `llm.map(template.each(rows))`. A sequence of rows has a length, by which `map` tells
        how far it is, and is checked as a whole before the first is drawn.

        Args:
            rows: Mappings of the variables' names to their values.

        Raises:
            ConfigurationError: As `format`, with the number of the row; of rows that are no
                sequence when the row is drawn.
        """
        if not isinstance(rows, Sequence):
            return (self._row(number, row) for number, row in enumerate(rows))
        for number, row in enumerate(rows):
            if row.keys() != self.variables:
                raise self._mismatch(row, f"row {number}: ")
        return _Rows(self._row, rows)

    def _row(self, number: int, row: Mapping[str, object]) -> str | list[Message]:
        return self._filled(row, f"row {number}: ")

    def _filled(self, values: Mapping[str, object], where: str = "") -> str | list[Message]:
        if values.keys() != self.variables:
            raise self._mismatch(values, where)
        user = self._user % values
        if self._system is None:
            return user
        return [Message("system", self._system % values), Message("user", user)]

    def _mismatch(self, values: Mapping[str, object], where: str) -> ConfigurationError:
        missing = sorted(self.variables - values.keys())
        unknown = sorted(map(str, values.keys() - self.variables))
        said: list[str] = []
        if missing:
            said.append(f"no value for {', '.join(missing)}")
        for name in unknown:
            near = difflib.get_close_matches(name, self.variables, 1)
            said.append(f"no variable {name}{f' (did you mean {near[0]}?)' if near else ''}")
        return ConfigurationError(f"{where}{'; '.join(said)}: in {self!r:.200}")


class _Rows(Sequence[Any]):
    """The prompts of a sequence of rows, each made when it is asked for."""

    def __init__(
        self,
        fill: Callable[[int, Mapping[str, object]], str | list[Message]],
        rows: Sequence[Mapping[str, object]],
    ) -> None:
        self._fill = fill
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _Rows(self._fill, self._rows[index])
        return self._fill(index, self._rows[index])

    def __iter__(self) -> Iterator[Any]:
        return map(self._fill, range(len(self._rows)), self._rows)


def _compiled(text: str) -> tuple[str, set[str]]:
    """Return a text for the operator `%`, which fills it in one pass, and the names of variables.

    Raises:
        ConfigurationError: As `Template` says.
    """
    written: list[str] = []
    names: set[str] = set()
    try:
        for literal, name, form, conversion in string.Formatter().parse(text):
            written.append(literal.replace("%", "%%"))
            if name is None:
                continue
            if not name.isidentifier() or form or conversion:
                whole = (
                    name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
                )
                raise ConfigurationError(
                    f"{{{whole}}} is no variable: a name alone stands in braces, and {{{{ and }}}} "
                    f"are braces; in {text!r:.200}"
                )
            written.append(f"%({name})s")
            names.add(name)
    except ValueError as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(
            f"a brace stands alone, write {{{{ or }}}} ({error}); in {text!r:.200}"
        ) from error
    return "".join(written), names
