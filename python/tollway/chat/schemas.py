"""JSON schemas: brought to the form that providers hold answers to, and checked here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["checker", "is_strict", "strict_schema"]

_Rules: TypeAlias = Mapping[str, Any]

_KINDS: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
}
# Members of a schema that hold schemas: by name, as a list, alone.
_BY_NAME = frozenset({"properties", "$defs"})
_LISTED = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_ALONE = frozenset({"items", "additionalProperties"})
# What strict modes do not take; of a union that a member tells apart they know the other word.
_LEFT_OUT = frozenset({"default", "discriminator"})
_RENAMED = {"oneOf": "anyOf"}


def strict_schema(schema: Any, root: _Rules | None = None, within: tuple[str, ...] = ()) -> Any:
    """Return a pydantic model's schema as strict modes want it: all members, and no others.

    Args:
        schema: That of the model, or a part of it.
        root: That of the model, where `schema` is a part.
        within: The references that lead to the part.
    """
    if not isinstance(schema, dict):
        return schema
    given = cast("dict[str, Any]", schema)
    root = given if root is None else root
    reference: str | None = given.get("$ref")
    if reference is not None and len(given) > 1:
        # Nothing may stand beside a reference, a field's description neither.
        if reference in within:
            return {"$ref": reference}
        beside = {name: value for name, value in given.items() if name != "$ref"}
        whole = {**_resolved(root, reference), **beside}
        return strict_schema(whole, root, (*within, reference))

    def part_of(name: str, value: Any) -> Any:
        if name in _BY_NAME:
            return {key: strict_schema(each, root, within) for key, each in value.items()}
        if name in _LISTED:
            return [strict_schema(each, root, within) for each in value]
        return strict_schema(value, root, within) if name in _ALONE else value

    members = {
        _RENAMED.get(name, name): part_of(name, value)
        for name, value in given.items()
        if name not in _LEFT_OUT
    }
    if "properties" in members and "additionalProperties" not in members:
        members |= {"additionalProperties": False, "required": list(members["properties"])}
    return members


def is_strict(schema: Any) -> bool:
    """Whether every object of a schema lists all its members as required, and allows no others."""
    if isinstance(schema, list):
        return all(map(is_strict, cast("Sequence[Any]", schema)))
    if not isinstance(schema, Mapping):
        return True
    named = cast("_Rules", schema)
    kind = named.get("type")
    if "object" in (cast("Sequence[Any]", kind) if isinstance(kind, list) else [kind]):
        members = set(named.get("properties", ()))
        if named.get("additionalProperties") is not False or members != set(
            named.get("required", ())
        ):
            return False
    return all(map(is_strict, named.values()))


def checker(schema: _Rules | None) -> Callable[[Any], Any]:
    """Return what checks a value by a schema, and raises ValueError with what is wrong.

    Checked is the common part: references within the schema, unions, values, types, members and
    items. Without a schema any object will do.
    """
    rules: _Rules = {"type": "object"} if schema is None else schema

    def check(value: Any) -> Any:
        problem = _problem(value, rules, rules, "the answer")
        if problem is not None:
            raise ValueError(problem)
        return value

    return check


def _problem(value: Any, schema: Any, root: _Rules, where: str) -> str | None:
    """Return what is wrong with a value, or None."""
    if not isinstance(schema, Mapping):
        return f"{where} should not be there" if schema is False else None
    rules = cast("_Rules", schema)
    problem = _own_problem(value, rules, root, where)
    if problem is not None:
        return problem
    found = (
        _problem(part, rule, root, place) for part, rule, place in _parts(value, rules, root, where)
    )
    return next((problem for problem in found if problem is not None), None)


def _own_problem(value: Any, rules: _Rules, root: _Rules, where: str) -> str | None:
    """Return what is wrong with a value apart from its members and items."""
    for choices in (rules.get("anyOf"), rules.get("oneOf")):
        problems = [_problem(value, choice, root, where) for choice in choices or ()]
        if problems and None not in problems:
            return problems[0]
    allowed: Any = rules.get("enum") or ([rules["const"]] if "const" in rules else None)
    if allowed is not None and value not in allowed:
        return f"{where} is {value!r:.80}, not one of {allowed}"
    kind: Any = rules.get("type", [])
    kinds = cast("Sequence[str]", kind if isinstance(kind, list) else [kind])
    if kinds and not any(_is_of(value, name) for name in kinds):
        return f"{where} is {type(value).__name__}, not {' or '.join(kinds)}"
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        missing = next((name for name in rules.get("required", ()) if name not in members), None)
        if missing is not None:
            return f"{where} has no {missing!r}"
        unknown = members.keys() - rules.get("properties", {}).keys()
        if unknown and _others(rules) is False:
            return f"{where} has {min(unknown)!r}, which the schema does not know"
    return None


def _parts(value: Any, rules: _Rules, root: _Rules, where: str) -> Iterator[tuple[Any, Any, str]]:
    """Yield every value that a further schema is about, the schema, and where it stands."""
    if "$ref" in rules:
        yield value, _resolved(root, str(rules["$ref"])), where
    for rule in rules.get("allOf", ()):
        yield value, rule, where
    if isinstance(value, dict):
        known, others = rules.get("properties", {}), _others(rules)
        for name, part in cast("dict[str, Any]", value).items():
            yield part, known.get(name, others), f"{where}.{name}"
    if isinstance(value, list):
        first, rest = rules.get("prefixItems", ()), rules.get("items")
        for number, part in enumerate(cast("Sequence[Any]", value)):
            yield part, first[number] if number < len(first) else rest, f"{where}[{number}]"


def _others(rules: _Rules) -> Any:
    """Return the rule for members that have none of their own; None where patterns tell them."""
    return None if "patternProperties" in rules else rules.get("additionalProperties")


def _resolved(root: _Rules, reference: str) -> Any:
    """Return what a reference leads to; None where that is not in this schema."""
    if not reference.startswith("#"):
        return None
    found: Any = root
    for name in reference.split("/")[1:]:
        found = cast("_Rules", found).get(name) if isinstance(found, Mapping) else None
    return found


def _is_of(value: Any, kind: str) -> bool:
    if kind in {"integer", "number"}:
        numbers = int if kind == "integer" else (int, float)
        whole = kind == "integer" and isinstance(value, float) and value.is_integer()
        return whole or (isinstance(value, numbers) and not isinstance(value, bool))
    return isinstance(value, _KINDS.get(kind, object))
