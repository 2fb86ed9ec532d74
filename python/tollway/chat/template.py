"""Prompts with named variables, compiled once."""

from __future__ import annotations

import difflib
import itertools
import operator
import string
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from tollway.errors import ConfigurationError
from tollway.types import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
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

    __slots__ = ("_count", "_system", "_user", "system", "user", "variables")

    def __init__(self, user: str, *, system: str | None = None) -> None:
        self.user = user
        self.system = system
        self._user = _Text(user)
        self._system = None if system is None else _Text(system)
        names = [*self._user.names, *(self._system.names if self._system else ())]
        self.variables: AbstractSet[str] = frozenset(names)
        self._count = len(self.variables)

    def __reduce__(self) -> tuple[Callable[[str, str | None], Template], tuple[str, str | None]]:
        """Pickle the texts."""
        return _template, (self.user, self.system)

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
            return map(self._filled, rows, itertools.count())
        for number, row in enumerate(rows):
            if not self._fits(row):
                raise self._mismatch(row, number)
        return _Rows(self._filled, rows)

    def _filled(self, values: Mapping[str, object], row: int | None = None) -> str | list[Message]:
        text, system = self._user, self._system
        try:
            # As many as there are variables, and a value for each: then no other is among them.
            if len(values) != self._count:
                raise self._mismatch(values, row)
            user = text.form % text.values(values)
            if system is None:
                return user
            return [Message("system", system.form % system.values(values)), Message("user", user)]
        except (IndexError, KeyError, TypeError):
            if self._fits(values):
                raise
            raise self._mismatch(values, row) from None

    def _fits(self, values: Mapping[str, object]) -> bool:
        """Whether it has all variables and no other; a database's rows may be no mappings."""
        return hasattr(values, "keys") and self.variables == set(values.keys())

    def _mismatch(self, values: Mapping[str, object], row: int | None) -> ConfigurationError:
        where = "" if row is None else f"row {row}: "
        if not hasattr(values, "keys"):
            kind = type(values).__name__
            return ConfigurationError(
                f"{where}a mapping of names to values, not {kind}: in {self!r:.200}"
            )
        names = set(values.keys())
        missing = sorted(self.variables - names)
        unknown = sorted(map(str, names - self.variables))
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
        fill: Callable[[Mapping[str, object], int], str | list[Message]],
        rows: Sequence[Mapping[str, object]],
    ) -> None:
        self._fill = fill
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        chosen = cast("Any", self._rows[index])
        if isinstance(index, slice):
            return _Rows(self._fill, chosen)
        return self._fill(chosen, operator.index(index))

    def __iter__(self) -> Iterator[Any]:
        return map(self._fill, self._rows, itertools.count())


class _Text:
    """A text that the operator `%` fills in one pass.

    Attributes:
        form: The text, `%s` for each variable.
        names: The variables, in the order of `form`.
        values: Returns the values for `form`.
    """

    __slots__ = ("form", "names", "values")

    def __init__(self, text: str) -> None:
        written: list[str] = []
        self.names: list[str] = []
        try:
            for literal, name, form, conversion in string.Formatter().parse(text):
                written.append(literal.replace("%", "%%"))
                if name is None:
                    continue
                if not name.isidentifier() or form or conversion:
                    whole = f"{name}!{conversion}" if conversion else name
                    raise ConfigurationError(
                        f"{{{whole}{f':{form}' if form else ''}}} is no variable: a name alone "
                        f"stands in braces, and {{{{ and }}}} are braces; in {text!r:.200}"
                    )
                written.append("%s")
                self.names.append(name)
        except ValueError as error:
            if isinstance(error, ConfigurationError):
                raise
            raise ConfigurationError(
                f"a brace stands alone, write {{{{ or }}}} ({error}); in {text!r:.200}"
            ) from error
        self.form = "".join(written)
        self.values = _getter(self.names)


def _getter(names: list[str]) -> Callable[[Mapping[str, object]], tuple[object, ...]]:
    """Return what takes the values of names out of a mapping, as a tuple."""
    if len(names) > 1:
        return operator.itemgetter(*names)
    return lambda values: tuple(values[name] for name in names)


def _template(user: str, system: str | None) -> Template:
    return Template(user, system=system)
