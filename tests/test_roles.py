"""Roles: which model a task gets."""

from __future__ import annotations

import pytest

from chat_fakes import FakeProvider, llm_of, said
from tollway import LLM, Roles
from tollway.errors import ConfigurationError
from tollway.providers import register_chat_provider


@pytest.fixture(autouse=True)
def provider():
    register_chat_provider("role", lambda model: FakeProvider(said(model), model=model))


async def test_each_task_has_its_model_and_the_others_the_default():
    special, _ = llm_of(said("special"))
    async with Roles(
        default="role/small", extract="role/large", vision=special, mine="role/large"
    ) as roles:
        assert (await roles["extract"].complete("hello")).text == "large"
        assert (await roles["anything"].complete("hello")).text == "small"
        assert roles["vision"] is special
        assert roles["extract"] is roles["mine"] is roles["extract"]
        assert roles["query"] is roles["keywords"]
    assert ("extract" in roles, "query" in roles, [*roles]) == (
        True,
        False,
        ["extract", "vision", "mine"],
    )
    assert repr(roles) == (
        "Roles(default='fake/small', extract='fake/large', vision='fake/gpt-4o', mine='fake/large')"
    )


def test_a_role_without_a_model_is_an_error_that_names_it():
    roles = Roles(extract="role/large", query="role/small")
    assert isinstance(roles["extract"], LLM)
    with pytest.raises(ConfigurationError, match=r"'extrct' \(did you mean extract\?\); there are"):
        _ = roles["extrct"]
    with pytest.raises(ConfigurationError, match="there is no role"):
        Roles()
    with pytest.raises(ConfigurationError, match="no provider of completions 'rolle'"):
        Roles(extract="rolle/x")
    roles.aclose_sync()
