"""Ollama's own API: chats in lines of JSON, embeddings, models, version."""

from __future__ import annotations

import base64
import dataclasses
from typing import TYPE_CHECKING, Any

from tollway.simulator.answers import Conversation, Said, pieces
from tollway.simulator.calls import Refused, Vectors, dumps, image_digest, is_size, turn_of
from tollway.simulator.openai import Refusal, arguments_of
from tollway.simulator.server import Response
from tollway.tokens import get_encoding

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from tollway.simulator.calls import Turn
    from tollway.simulator.enforcement import Denial, Standing
    from tollway.simulator.formats import Behaviour, Call
    from tollway.simulator.server import Request

__all__ = ["MODELS", "OllamaFormat"]

MODELS = ("llama3.2:latest", "nomic-embed-text:latest")
_ROUTES = {
    "/api/chat": "POST",
    "/api/embed": "POST",
    "/api/tags": "GET",
    "/api/ps": "GET",
    "/api/version": "GET",
}
# The context of a server whose client asks for none.
_NUM_CTX = 4096
_DIMENSIONS = 768
# What a model of vectors takes.
_TEXT_CTX = 8192


class OllamaFormat:
    """`/api/…`."""

    def owns(self, path: str) -> bool:
        """All paths under `/api/`."""
        return path.startswith("/api/")

    def free(self, request: Request, keys: Collection[str] | None) -> Response | None:
        """Answer the list of models and the version; see `Format.free`."""
        allowed = _ROUTES.get(request.path)
        if allowed is None:
            raise Refused(404, {"error": "404 page not found"})
        if request.method != allowed:
            raise Refused(405, {"error": "405 method not allowed"})
        # A server of one's own asks for no key; ollama.com does.
        _, _, key = request.headers.get("authorization", "").partition(" ")
        if keys is not None and key not in keys:
            raise Refused(401, {"error": "unauthorized"})
        if request.path == "/api/version":
            return Response(200, b'{"version":"0.12.6"}')
        if allowed == "GET":
            listed = [{"name": name, "model": name, "size": 1} for name in MODELS]
            return Response(200, dumps({"models": listed}))
        return None

    def read(self, request: Request, behaviour: Behaviour) -> Call:
        """Read a request for an answer or for vectors."""
        try:
            arguments: dict[str, Any] = arguments_of(request.body)
        except Refusal as refusal:
            raise Refused(400, {"error": str(refusal)}) from refusal
        model = arguments.get("model")
        if not isinstance(model, str) or not model:
            raise Refused(400, {"error": "model is required"})
        if model.startswith("missing-"):
            raise Refused(404, {"error": f"model '{model}' not found"})
        if request.path == "/api/embed":
            return _read_vectors(model, arguments, behaviour)
        return _read(model, arguments, behaviour)

    def malformed(self, message: str) -> Exception:
        """Return the 400; see `Format.malformed`."""
        return Refused(400, {"error": message})

    def denied(self, model: str, denial: Denial) -> Exception:
        """Return the 429; see `Format.denied`."""
        del model
        headers: dict[str, str] = {}
        if denial.retry_after is not None:
            headers["retry-after"] = f"{denial.retry_after:g}"
        return Refused(429, {"error": "too many requests"}, headers)

    def fault(self, name: str, model: str, retry_after: float) -> Exception:
        """Return the error; see `Format.fault`."""
        del model
        if name == "429":
            headers = {"retry-after": f"{retry_after:g}"}
            return Refused(429, {"error": "too many requests"}, headers)
        if name == "insufficient_quota":
            return Refused(402, {"error": "you have reached your usage limit, please upgrade"})
        if name == "503":
            busy = "server busy, please try again.  maximum pending requests exceeded"
            return Refused(503, {"error": busy})
        return Refused(500, {"error": "llama runner process has terminated"})

    def headers(self, request_id: str, standing: Mapping[str, Standing]) -> dict[str, str]:
        """Return none: a server of one's own has no limits."""
        del request_id, standing
        return {}


class _Writer:
    """Writes answers of /api/chat."""

    stream_type = "application/x-ndjson"

    def whole(self, turn: Turn, *, finished: bool, counted: bool) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": turn.said.text}
        if turn.said.reasoning:
            message["thinking"] = turn.said.reasoning
        if calls := _calls(turn):
            message["tool_calls"] = calls
        return dumps(_end(turn, message, finished=finished, counted=counted))

    def empty(self, turn: Turn) -> bytes:
        return dumps({"model": turn.model, "created_at": _NOW})

    def filtered(self, turn: Turn) -> Response:
        """Answer as always: there is no filter."""
        return turn.answer(None, 0)

    def failed(self) -> bytes:
        return b'{"error":"it failed"}\n'

    def pieces(self, turn: Turn) -> list[bytes]:
        messages: list[dict[str, Any]] = [
            {"content": "", "thinking": piece} for piece in pieces(turn.said.reasoning)
        ]
        messages += [{"content": piece} for piece in pieces(turn.said.text)]
        messages += [{"content": "", "tool_calls": [call]} for call in _calls(turn)]
        head = {"model": turn.model, "created_at": _NOW, "done": False}
        return [_line({**head, "message": {"role": "assistant", **said}}) for said in messages]

    def end(self, turn: Turn, *, finished: bool, counted: bool) -> list[bytes]:
        if not finished:
            return []
        message = {"role": "assistant", "content": ""}
        return [_line(_end(turn, message, finished=True, counted=counted))]

    def broken(self) -> bytes:
        return _line({"error": "an error was encountered while running the model"})


_NOW = "2026-01-01T00:00:00Z"


def _line(data: dict[str, Any]) -> bytes:
    return dumps(data) + b"\n"


def _calls(turn: Turn) -> list[dict[str, Any]]:
    return [{"function": {"name": use.name, "arguments": use.arguments}} for use in turn.said.tools]


def _end(turn: Turn, message: dict[str, Any], *, finished: bool, counted: bool) -> dict[str, Any]:
    end: dict[str, Any] = {"model": turn.model, "created_at": _NOW, "message": message}
    end["done"] = finished
    if finished:
        end["done_reason"] = "length" if turn.said.finish == "length" else "stop"
    if counted:
        counts = {"prompt_eval_count": turn.prompt_tokens, "eval_count": turn.said.tokens}
        durations = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")
        end |= {**counts, **dict.fromkeys(durations, 1_000_000)}
    return end


def _read(model: str, arguments: dict[str, Any], behaviour: Behaviour) -> Turn:
    said: list[Said] = []
    for message in arguments.get("messages") or ():
        role = message["role"]
        if role not in {"system", "user", "assistant", "tool"}:
            raise Refused(400, {"error": f"invalid role: {role}"})
        if role == "tool" and not message.get("tool_name"):
            raise Refused(400, {"error": "a result of a tool needs its tool_name"})
        images = [
            image_digest(base64.b64decode(image, validate=True))
            for image in message.get("images") or ()
        ]
        calls = [_name(call) for call in message.get("tool_calls") or ()]
        said.append(Said(role, message.get("content") or "", tuple(images), tuple(calls)))
    if not said:
        raise Refused(400, {"error": "messages are required"})
    options: dict[str, Any] = arguments.get("options") or {}
    form: Any = arguments.get("format")
    stop: Any = options.get("stop") or ()
    predict: Any = options.get("num_predict")
    conversation = Conversation(
        said,
        {
            tool["function"]["name"]: tool["function"].get("parameters") or {}
            for tool in arguments.get("tools") or ()
        },
        schema=form if isinstance(form, dict) else None,  # pyright: ignore[reportUnknownArgumentType]
        json_mode=form == "json",
        max_tokens=predict if isinstance(predict, int) and predict > 0 else None,
        stop=(stop,) if isinstance(stop, str) else stop,
    )
    turn = turn_of(
        conversation,
        _Writer(),
        behaviour,
        model=model,
        is_stream=arguments.get("stream") is not False,
        too_long=_too_long,
    )
    window: int = options.get("num_ctx") or _NUM_CTX
    if turn.prompt_tokens <= window:
        return turn
    # Older servers know nothing of `truncate`: they cut in silence, and say so by the count alone.
    if arguments.get("truncate") is False and "truncate" not in behaviour.refuses:
        raise _too_long(turn.prompt_tokens, window)
    return dataclasses.replace(turn, prompt_tokens=window)


def _name(call: Mapping[str, Any]) -> str:
    function: dict[str, Any] = call["function"]
    if not isinstance(function["arguments"], dict):
        raise Refused(400, {"error": "json: cannot unmarshal string into arguments"})
    return str(function["name"])


def _too_long(tokens: int, window: int) -> Refused:
    message = f"the prompt ({tokens} tokens) exceeds the context window ({window})"
    return Refused(400, {"error": message})


def _read_vectors(model: str, arguments: dict[str, Any], behaviour: Behaviour) -> Vectors:
    given: Any = arguments.get("input")
    texts: list[str] = [given] if isinstance(given, str) else given
    full = behaviour.dimensions or _DIMENSIONS
    size: Any = arguments.get("dimensions") or full
    if not is_size(size, full):
        raise Refused(400, {"error": f"dimensions must be between 1 and {full}"})
    longest = max(get_encoding("o200k_base").count_batch(texts).tolist(), default=0)
    if arguments.get("truncate") is False and longest > _TEXT_CTX:
        raise Refused(400, {"error": "the input length exceeds the context length"})

    def write(rows: Sequence[list[float] | None], tokens: int) -> dict[str, Any]:
        counts = {"total_duration": 1, "load_duration": 1, "prompt_eval_count": tokens}
        return {"model": model, "embeddings": rows, **counts}

    return Vectors(model, texts, size, write)
