"""Bedrock's runtime: Converse, its stream of events, and vectors of Titan and Cohere.

An event is framed as Amazon's event streams are: lengths with their checksum, headers, payload, and
the checksum of all. https://smithy.io/2.0/aws/amazon-eventstream.html
"""

from __future__ import annotations

import base64
import itertools
import json
import re
import struct
import urllib.parse
import zlib
from typing import TYPE_CHECKING, Any

from tollway.simulator.answers import Conversation, Said, pieces
from tollway.simulator.calls import Refused, Vectors, dumps, image_digest, is_size, turn_of
from tollway.simulator.formats import Behaviour
from tollway.simulator.openai import Refusal, arguments_of
from tollway.simulator.server import Response
from tollway.simulator.vectors import digest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from tollway.simulator.calls import Turn
    from tollway.simulator.enforcement import Denial, Standing
    from tollway.simulator.formats import Call
    from tollway.simulator.server import Request

__all__ = ["BedrockFormat", "frame"]

_PATH = re.compile(r"/model/([^/]+)/(converse|converse-stream|invoke|count-tokens)")
_CREDENTIAL = re.compile(r"AWS4-HMAC-SHA256 Credential=([^/]+)/")
# The members of the service model's ConverseRequest, as far as they are taken here.
_ARGUMENTS = frozenset(
    {
        "additionalModelRequestFields",
        "additionalModelResponseFieldPaths",
        "guardrailConfig",
        "inferenceConfig",
        "messages",
        "outputConfig",
        "performanceConfig",
        "requestMetadata",
        "serviceTier",
        "system",
        "toolConfig",
    }
)
_STOP = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "refusal": "content_filtered",
}
_STATUS = {
    "AccessDeniedException": 403,
    "InternalServerException": 500,
    "ResourceNotFoundException": 404,
    "ServiceUnavailableException": 503,
    "ThrottlingException": 429,
    "UnrecognizedClientException": 403,
    "ValidationException": 400,
}
_TITAN_DIMENSIONS, _COHERE_DIMENSIONS = 1024, 1024
_COHERE_MAX_TEXTS = 96


class BedrockFormat:
    """`/model/MODEL/…`."""

    def owns(self, path: str) -> bool:
        """Paths that name a model and an operation."""
        return path.startswith("/model/")

    def free(self, request: Request, keys: Collection[str] | None) -> Response | None:
        """Check the key's id or the bearer token, and answer `CountTokens`; see `Format.free`."""
        found = _PATH.fullmatch(request.path)
        if found is None or request.method != "POST":
            raise _error("ResourceNotFoundException", "no such operation")
        given = request.headers.get("authorization", "")
        signed = _CREDENTIAL.match(given)
        key = signed[1] if signed else given.partition(" ")[2]
        if not key:
            raise _error("AccessDeniedException", "Missing Authentication Token")
        if keys is not None and key not in keys:
            message = "The security token included in the request is invalid."
            raise _error("UnrecognizedClientException", message)
        if found[2] != "count-tokens":
            return None
        asked: Any = arguments_of(request.body)["input"]
        model = urllib.parse.unquote(found[1])
        turn = _read(model, asked["converse"], Behaviour(), is_stream=False)
        return Response(200, dumps({"inputTokens": turn.prompt_tokens}))

    def read(self, request: Request, behaviour: Behaviour) -> Call:
        """Read a request for an answer or for vectors."""
        found = _PATH.fullmatch(request.path)
        assert found is not None
        model, operation = urllib.parse.unquote(found[1]), found[2]
        if model.startswith("missing-"):
            message = "The provided model identifier is invalid."
            raise _error("ResourceNotFoundException", message)
        try:
            arguments: dict[str, Any] = arguments_of(request.body)
        except Refusal as refusal:
            raise _invalid(str(refusal)) from refusal
        if operation == "invoke":
            return _read_vectors(model, arguments, behaviour)
        return _read(model, arguments, behaviour, is_stream=operation == "converse-stream")

    def malformed(self, message: str) -> Exception:
        """Return the 400; see `Format.malformed`."""
        return _invalid(message)

    def denied(self, model: str, denial: Denial) -> Exception:
        """Return the 429, which names no time to wait; see `Format.denied`."""
        del model
        kind = "tokens" if denial.limit.startswith("t") else "requests"
        per_day = " per day" if denial.limit.endswith("d") else ""
        message = f"Too many {kind}{per_day}, please wait before trying again."
        return _error("ThrottlingException", message)

    def fault(self, name: str, model: str, retry_after: float) -> Exception:
        """Return the error; see `Format.fault`."""
        del model, retry_after
        if name == "429":
            message = "Too many requests, please wait before trying again."
            return _error("ThrottlingException", message)
        if name == "insufficient_quota":
            message = "Too many tokens per day, please wait before trying again."
            return _error("ThrottlingException", message)
        if name == "503":
            return _error(
                "ServiceUnavailableException", "Bedrock is unable to process your request."
            )
        return _error("InternalServerException", "The system encountered an unexpected error.")

    def headers(self, request_id: str, standing: Mapping[str, Standing]) -> dict[str, str]:
        """Return the request's id; of the limits Bedrock tells nothing."""
        del standing
        return {"x-amzn-requestid": request_id}


def frame(headers: Mapping[str, str], payload: bytes) -> bytes:
    """Return one message of an event stream."""
    written = b"".join(
        bytes((len(name),))
        + name.encode()
        + b"\x07"
        + struct.pack(">H", len(value.encode()))
        + value.encode()
        for name, value in headers.items()
    )
    # Lengths and their checksum are 12 bytes, the checksum of all is 4.
    prelude = struct.pack(">II", 16 + len(written) + len(payload), len(written))
    checked = prelude + struct.pack(">I", zlib.crc32(prelude)) + written + payload
    return checked + struct.pack(">I", zlib.crc32(checked))


class _Writer:
    """Writes answers of Converse."""

    stream_type = "application/vnd.amazon.eventstream"

    def whole(self, turn: Turn, *, finished: bool, counted: bool) -> bytes:
        message = {"role": "assistant", "content": list(_blocks(turn))}
        answer: dict[str, Any] = {"output": {"message": message}, "metrics": {"latencyMs": 1}}
        if finished:
            answer["stopReason"] = _STOP[turn.said.finish]
        if counted:
            answer["usage"] = _usage(turn)
        return dumps(answer)

    def empty(self, turn: Turn) -> bytes:
        return dumps({"metrics": {"latencyMs": 1}, "usage": _usage(turn)})

    def filtered(self, turn: Turn) -> Response:
        message = {"role": "assistant", "content": [{"text": "Sorry, I cannot answer that."}]}
        if turn.is_stream:
            parts = [
                _event("messageStart", {"role": "assistant"}),
                _event("messageStop", {"stopReason": "guardrail_intervened"}),
                _event("metadata", {"usage": _usage(turn), "metrics": {"latencyMs": 1}}),
            ]
            return Response(200, b"".join(parts), {"content-type": self.stream_type})
        answer = {"output": {"message": message}, "stopReason": "guardrail_intervened"}
        return Response(200, dumps({**answer, "usage": _usage(turn), "metrics": {"latencyMs": 1}}))

    def failed(self) -> bytes:
        return dumps({"message": "it failed"})

    def pieces(self, turn: Turn) -> list[bytes]:
        events = [_event("messageStart", {"role": "assistant"})]
        for index, block in enumerate(_blocks(turn)):
            events += [
                _event(kind, {**members, "contentBlockIndex": index})
                for kind, members in _block_events(block)
            ]
        return events

    def end(self, turn: Turn, *, finished: bool, counted: bool) -> list[bytes]:
        if not finished:
            return []
        events = [_event("messageStop", {"stopReason": _STOP[turn.said.finish]})]
        if counted:
            metadata = {"usage": _usage(turn), "metrics": {"latencyMs": 1}}
            events.append(_event("metadata", metadata))
        return events

    def broken(self) -> bytes:
        headers = {
            ":exception-type": "modelStreamErrorException",
            ":content-type": "application/json",
            ":message-type": "exception",
        }
        return frame(headers, dumps({"message": "it failed on the way", "originalStatusCode": 500}))


def _blocks(turn: Turn) -> Iterator[dict[str, Any]]:
    said = turn.said
    if said.reasoning:
        text = {"text": said.reasoning, "signature": digest(said.reasoning)}
        yield {"reasoningContent": {"reasoningText": text}}
    if said.text:
        yield {"text": said.text}
    for number, use in enumerate(said.tools):
        call = {"toolUseId": f"tooluse_{number}", "name": use.name, "input": use.arguments}
        yield {"toolUse": call}


def _block_events(block: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    if "text" in block:
        for piece in pieces(block["text"]):
            yield "contentBlockDelta", {"delta": {"text": piece}}
    elif "toolUse" in block:
        call = block["toolUse"]
        start = {"toolUseId": call["toolUseId"], "name": call["name"]}
        yield "contentBlockStart", {"start": {"toolUse": start}}
        written = json.dumps(call["input"])
        for at in range(0, len(written), 8):
            delta = {"toolUse": {"input": written[at : at + 8]}}
            yield "contentBlockDelta", {"delta": delta}
    else:
        text = block["reasoningContent"]["reasoningText"]
        for piece in pieces(text["text"]):
            yield "contentBlockDelta", {"delta": {"reasoningContent": {"text": piece}}}
        signed = {"reasoningContent": {"signature": text["signature"]}}
        yield "contentBlockDelta", {"delta": signed}
    yield "contentBlockStop", {}


def _event(kind: str, data: dict[str, Any]) -> bytes:
    headers = {
        ":event-type": kind,
        ":content-type": "application/json",
        ":message-type": "event",
    }
    return frame(headers, dumps(data))


def _usage(turn: Turn) -> dict[str, Any]:
    return {
        "inputTokens": turn.prompt_tokens - turn.cached,
        "outputTokens": turn.said.tokens,
        "totalTokens": turn.prompt_tokens + turn.said.tokens,
        "cacheReadInputTokens": turn.cached,
        "cacheWriteInputTokens": 0,
    }


def _error(kind: str, message: str) -> Refused:
    return Refused(_STATUS[kind], {"message": message}, {"x-amzn-errortype": f"{kind}:"})


def _invalid(message: str) -> Refused:
    return _error("ValidationException", message)


def _too_long(tokens: int, window: int) -> Refused:
    del tokens, window
    return _invalid("Input is too long for requested model.")


def _read(model: str, arguments: dict[str, Any], behaviour: Behaviour, *, is_stream: bool) -> Turn:
    refused = sorted(arguments.keys() - _ARGUMENTS | arguments.keys() & behaviour.refuses)
    if refused:
        raise _invalid(f"extraneous key [{refused[0]}] is not permitted")
    system: list[dict[str, Any]] = arguments.get("system") or []
    said = [Said("system", block["text"]) for block in system if "text" in block]
    roles: list[str] = []
    for message in arguments.get("messages") or ():
        roles.append(message["role"])
        said += _said(message)
    if not roles or roles[0] != "user":
        raise _invalid("A conversation must start with a user message.")
    if any(first == second for first, second in itertools.pairwise(roles)):
        raise _invalid("A conversation must alternate between user and assistant roles.")
    inference: dict[str, Any] = arguments.get("inferenceConfig") or {}
    config: dict[str, Any] = arguments.get("toolConfig") or {}
    specs = [tool["toolSpec"] for tool in config.get("tools") or () if "toolSpec" in tool]
    if (
        any("toolUse" in block for m in arguments["messages"] for block in m["content"])
        and not specs
    ):
        raise _invalid("The toolConfig field must be defined when using toolUse blocks.")
    choice: dict[str, Any] = config.get("toolChoice") or {"auto": {}}
    output: dict[str, Any] = arguments.get("outputConfig") or {}
    form: dict[str, Any] = output.get("textFormat") or {}
    schema = form["structure"]["jsonSchema"]["schema"] if form else None
    conversation = Conversation(
        said,
        {spec["name"]: spec["inputSchema"]["json"] for spec in specs},
        choice["tool"]["name"] if "tool" in choice else "required" if "any" in choice else "auto",
        None if schema is None else json.loads(schema),
        max_tokens=inference.get("maxTokens"),
        stop=inference.get("stopSequences") or (),
    )
    return turn_of(
        conversation,
        _Writer(),
        behaviour,
        model=model,
        is_stream=is_stream,
        too_long=_too_long,
        charges_max_tokens=True,
    )


def _said(message: Mapping[str, Any]) -> list[Said]:
    said: list[Said] = []
    texts: list[str] = []
    images: list[str] = []
    calls: list[str] = []
    marked: list[dict[str, Any]] = message["content"]
    for block in (block for block in marked if "cachePoint" not in block):
        if "text" in block:
            texts.append(block["text"])
        elif "image" in block:
            source = base64.b64decode(block["image"]["source"]["bytes"], validate=True)
            images.append(image_digest(source, f"image/{block['image']['format']}"))
        elif "toolUse" in block:
            calls.append(block["toolUse"]["name"])
        elif "toolResult" in block:
            content = block["toolResult"]["content"]
            said.append(Said("tool", "\n\n".join(part["text"] for part in content)))
        elif "reasoningContent" in block:
            text = block["reasoningContent"]["reasoningText"]
            if digest(text["text"]) != text["signature"]:
                raise _invalid("Invalid signature in thinking block")
        else:
            raise _invalid("The content field is empty or of an unknown kind.")
    if texts or images or calls:
        joined = "\n\n".join(texts)
        if not joined.strip() and texts:
            raise _invalid("The text field in the ContentBlock object is blank.")
        said.append(Said(message["role"], joined, tuple(images), tuple(calls)))
    return said


def _read_vectors(model: str, arguments: dict[str, Any], behaviour: Behaviour) -> Vectors:
    if "titan-embed" in model:
        full = behaviour.dimensions or _TITAN_DIMENSIONS
        size: Any = arguments.get("dimensions") or full
        if not is_size(size, full):
            raise _invalid(f"#/dimensions: expected an integer from 1 to {full}")
        texts: list[str] = [arguments["inputText"]]

        def titan(rows: Sequence[list[float] | None], tokens: int) -> dict[str, Any]:
            row = rows[0] if rows else None
            return {"embedding": row, "inputTextTokenCount": tokens}

        return Vectors(model, texts, size, titan)
    texts = arguments["texts"]
    if not texts or len(texts) > _COHERE_MAX_TEXTS:
        raise _invalid(f"#/texts: expected maximum item count: {_COHERE_MAX_TEXTS}")
    if "input_type" not in arguments:
        raise _invalid("#: required key [input_type] not found")

    def cohere(rows: Sequence[list[float] | None], tokens: int) -> dict[str, Any]:
        del tokens
        kind = {"response_type": "embeddings_floats", "id": "simulated", "texts": texts}
        return {**kind, "embeddings": rows}

    return Vectors(
        model,
        texts,
        behaviour.dimensions or _COHERE_DIMENSIONS,
        cohere,
        headers=lambda tokens: {"x-amzn-bedrock-input-token-count": str(tokens)},
    )
