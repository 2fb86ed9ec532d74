"""Templates: what is a variable, what is not, and what is said when they do not fit."""

from __future__ import annotations

import contextlib
import pickle
import sqlite3
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_fakes import llm_of, said
from tollway import Message, Template
from tollway.errors import ConfigurationError

TEXT = st.text(alphabet="ab{}% \n%s(é", max_size=30)
NAMES = st.sampled_from(["a", "text", "self", "values", "rows", "über", "_x1"])


@given(st.lists(st.tuples(TEXT, NAMES), max_size=6), st.dictionaries(NAMES, TEXT), TEXT)
def test_it_is_filled_as_str_format_does_it(parts, values, rest):
    def literal(text):
        return text.replace("{", "{{").replace("}", "}}")

    template = "".join(f"{literal(text)}{{{name}}}" for text, name in parts) + literal(rest)
    values = {name: values.get(name, "{text} %s {{") for _, name in parts}
    compiled = Template(template)
    assert compiled.variables == values.keys()
    assert compiled.format(**values) == template.format(**values)
    assert [*compiled.each([values])] == [template.format(**values)]


@given(st.text(max_size=40))
def test_every_text_is_a_template_or_refused(text):
    try:
        template = Template(text)
    except ConfigurationError:
        return
    names = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
    assert template.variables == names
    assert template.format(**dict.fromkeys(names, "x")) == text.format(**dict.fromkeys(names, "x"))


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "{0}",
        "{a.b}",
        "{a[0]}",
        "{a!r}",
        "{a:>3}",
        "{a b}",
        "{ a }",
        "{",
        "}",
        "{a",
        "a}",
        "{{a}",
    ],
)
def test_only_names_are_variables(text):
    with pytest.raises(ConfigurationError, match=r"in ['\"]"):
        Template(text)


def test_what_is_missing_and_what_is_unknown_is_named():
    template = Template("Summarise {text} in {language}.")
    with pytest.raises(ConfigurationError) as caught:
        template.format(txt="a", language="Korean")
    assert "no value for text; no variable txt (did you mean text?)" in str(caught.value)
    with pytest.raises(ConfigurationError, match="no value for language, text"):
        template.format()
    with pytest.raises(ConfigurationError, match=r"row 1: no variable id"):
        template.each([{"text": 1, "language": 2}, {"text": 1, "language": 2, "id": 3}])
    drawn = iter(template.each(row for row in [{"text": 1, "language": 2}, {"text": 1}]))
    assert next(drawn) == "Summarise 1 in 2."
    with pytest.raises(ConfigurationError, match=r"row 1: no value for language"):
        next(drawn)


def test_rows_of_a_database():
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.row_factory = sqlite3.Row

        def select(columns):
            return database.execute(f"SELECT {columns} UNION SELECT 3, 4")

        template = Template("{a} and {b}")
        assert [*template.each(select("1 AS a, 2 AS b"))] == ["1 and 2", "3 and 4"]
        prompts = template.each(select("1 AS a, 2 AS b").fetchall())
        assert (prompts[1], [*prompts[:1]]) == ("3 and 4", ["1 and 2"])
        for other in (select("1 AS a, 2 AS c"), select("1 AS a, 2 AS c").fetchall()):
            with pytest.raises(ConfigurationError, match="row 0: no value for b; no variable c"):
                list(template.each(other))


@pytest.mark.parametrize(
    "rows", [["a text"], {"text": "a"}, iter("a"), [None]], ids=["text", "row", "drawn", "none"]
)
def test_rows_that_are_no_mappings_are_named(rows):
    kind = "NoneType" if rows == [None] else "str"
    with pytest.raises(ConfigurationError, match=f"row 0: a mapping of .* values, not {kind}: in "):
        list(Template("Summarise {text}.").each(rows))


def test_a_value_is_never_expanded():
    template = Template("{a}{b}", system="100 % {a}")
    filled = template.format(a="{b} %(b)s {{", b="%s")
    assert filled == [Message("system", "100 % {b} %(b)s {{"), Message("user", "{b} %(b)s {{%s")]


def test_templates_are_values():
    template = Template("{a}", system="{b}")
    assert template == pickle.loads(pickle.dumps(template)) != Template("{a}")
    assert len({template, Template("{a}", system="{b}")}) == 1
    assert repr(template) == "Template('{a}', system='{b}')"
    rows = template.each([{"a": i, "b": "s"} for i in range(5)])
    assert (len(rows), rows[1][1].content, len(rows[1:3])) == (5, "1", 2)


async def test_a_map_over_rows():
    llm, provider = llm_of(lambda request: said(request.messages[-1].content + "!"))
    template = Template("What is {thing}?", system="Answer in {language}.")
    rows = [{"thing": f"thing {i}", "language": "Korean"} for i in range(10)]
    totals = []
    outcomes = await llm.map(template.each(rows), progress=lambda now: totals.append(now.total))
    assert [outcome.text for outcome in outcomes] == [f"What is thing {i}?!" for i in range(10)]
    assert set(totals) == {10}
    assert provider.requests[0].messages[0] == Message("system", "Answer in Korean.")
    assert len(await llm.map(template.each(row for row in rows))) == 10
