"""Parts of messages: nothing that was given is lost on the way to a provider."""

from __future__ import annotations

import pytest

from tollway.errors import ConfigurationError
from tollway.providers import ChatRequest, chat_function, chat_provider
from tollway.providers.anthropic_wire import messages_body
from tollway.providers.bedrock_wire import converse_arguments
from tollway.providers.gemini_wire import contents_and_config
from tollway.providers.messages import read_message
from tollway.providers.ollama_wire import chat_body
from tollway.types import ImagePart, Message, TextPart, ToolCall

PNG = ImagePart(data=b"\x89PNG\r\n\x1a\n", media_type="image/png")
# As Anthropic's users write it, and OpenAI's take it over.
CACHED = {"type": "text", "text": "You are terse.", "cache_control": {"type": "ephemeral"}}
SYSTEM = read_message({"role": "system", "content": [CACHED]})
HELLO = Message("user", "hello")


def request(*messages):
    return ChatRequest(messages)


def system_at_anthropic(message):
    return messages_body("m", request(message, HELLO), 9, frozenset()).get("system")


def system_at_gemini(message):
    config = contents_and_config("m", request(message, HELLO), thoughts=False)[1]
    return config.get("system_instruction", {}).get("parts")


def system_at_bedrock(message):
    return converse_arguments("m", request(message, HELLO)).get("system")


def test_a_system_prompt_in_parts_arrives():
    assert system_at_anthropic(SYSTEM) == [CACHED]
    assert system_at_gemini(SYSTEM) == [{"text": "You are terse."}]
    assert system_at_bedrock(SYSTEM) == [{"text": "You are terse."}]
    assert chat_body("m", request(SYSTEM, HELLO), {})["messages"][0]["content"] == "You are terse."


def test_a_system_prompt_of_the_provider_s_own_parts_arrives():
    point = {"cachePoint": {"type": "default"}}
    guarded = read_message({"role": "system", "content": [TextPart("a"), point]})
    assert system_at_bedrock(guarded) == [{"text": "a"}, point]


@pytest.mark.parametrize("system", [system_at_anthropic, system_at_gemini, system_at_bedrock])
@pytest.mark.parametrize("content", ["", " \n", (TextPart(""), TextPart(""))])
def test_a_system_prompt_that_says_nothing_is_left_out(system, content):
    assert not system(Message("system", content))


def test_an_image_in_a_tool_s_result_arrives_or_is_refused():
    asked = Message("assistant", tool_calls=(ToolCall("1", "look", "{}"),))
    found = Message("tool", (TextPart("seen"), PNG), tool_call_id="1")
    messages = request(HELLO, asked, found)
    result = converse_arguments("m", messages)["messages"][-1]["content"][0]["toolResult"]
    image = {"format": "png", "source": {"bytes": PNG.data}}
    assert result["content"] == [{"text": "seen"}, {"image": image}]
    with pytest.raises(ConfigurationError, match="message of tool"):
        contents_and_config("m", messages, thoughts=False)


@pytest.mark.parametrize("part", [PNG, {"type": "input_audio", "input_audio": {"data": ""}}])
async def test_what_takes_text_alone_drops_no_other_part(part):
    async def function(prompt):
        return prompt

    message = Message("user", (TextPart("listen"), part))
    with pytest.raises(ConfigurationError, match="text alone"):
        await chat_function(function, None).complete(request(message))
    if part is not PNG:
        with pytest.raises(ConfigurationError, match="text and images"):
            chat_body("m", request(message), {})


async def test_text_in_openai_s_form_is_text_everywhere():
    async def function(prompt):
        return prompt

    message = read_message({"role": "user", "content": [CACHED]})
    answer = await chat_function(function, None).complete(request(message))
    assert answer.text == "You are terse."


def test_openai_gets_such_parts_as_they_are():
    provider = chat_provider("openai/gpt-4o", api_key="sk-0123456789")
    written = provider.chat_body(request(SYSTEM, HELLO))
    assert written["messages"][0]["content"] == [CACHED]
