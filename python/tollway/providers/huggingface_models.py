"""Causal language models of Hugging Face in this process: loading, templates, generation.

Everything here but `LoadedModels.get` runs in the worker thread of its model.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tollway.errors import (
    BadRequestError,
    ConfigurationError,
    ContextWindowExceededError,
    NotFoundError,
)
from tollway.providers.huggingface_writer import TextWriter
from tollway.providers.messages import only_text
from tollway.providers.tool_text import calls_in
from tollway.providers.turns import arguments_of
from tollway.providers.worker import Worker
from tollway.types import ToolCall

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from tollway.types import FinishReason, Message

__all__ = ["MODELS", "Generated", "Generation", "LoadedModel", "is_out_of_memory"]

# What tokenizers say that name no window of their own.
_NO_WINDOW = 10**9


@dataclass(frozen=True, slots=True)
class Generation:
    """What a model is asked for.

    Attributes:
        messages: The conversation.
        tools: In OpenAI's form.
        max_tokens: The most new tokens; None for as many as the window has room for.
        stop: Texts that end the answer and are no part of it.
        seed: Of the draws; None for the process's own.
        options: Further arguments of the model's `generate`.
        emit: Called with each piece of the answer, in the worker thread. With tools these may hold
            their calls, in the model's own words.
        is_stopped: Set by whoever does not want the rest.
    """

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]]
    max_tokens: int | None
    stop: Sequence[str]
    seed: int | None
    options: Mapping[str, Any]
    emit: Callable[[str], object]
    is_stopped: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class Generated:
    """What a model wrote.

    Attributes:
        text: The answer without special tokens and calls of tools.
        calls: Of tools.
        finish_reason: `stop`, `length` at `max_tokens`, `context_window` where the window is full.
        input_tokens: Of the prompt.
        output_tokens: New ones.
    """

    text: str
    calls: tuple[ToolCall, ...]
    finish_reason: FinishReason
    input_tokens: int
    output_tokens: int


class LoadedModel:
    """A model and its tokenizer, loaded with the first work that needs them.

    Args:
        model: Name on the hub, or a folder.
        device: Where it computes; None for where it was loaded.
        options: Further arguments of `from_pretrained`.
        chat_template: In place of the tokenizer's own.
    """

    def __init__(
        self,
        model: str,
        device: str | None,
        options: Mapping[str, Any],
        chat_template: str | None,
    ) -> None:
        self.name = model
        self.worker = Worker("tollway-huggingface")
        self._device = device
        self._options = options
        self._template = chat_template
        self._tokenizer: Any = None
        self._model: Any = None

    def load(self) -> None:
        """Load what is not loaded yet.

        Raises:
            NotFoundError: There is no such model, or it cannot be read.
        """
        if self._model is not None:
            return
        library: Any = importlib.import_module("transformers")
        given: dict[str, Any] = {"trust_remote_code": False, **self._options}
        of_tokenizer = {
            name: given[name]
            for name in ("trust_remote_code", "revision", "token", "cache_dir", "local_files_only")
            if name in given
        }
        try:
            self._tokenizer = library.AutoTokenizer.from_pretrained(self.name, **of_tokenizer)
            model = library.AutoModelForCausalLM.from_pretrained(self.name, **given)
        except (OSError, ValueError, KeyError) as error:
            raise NotFoundError(
                f"huggingface/{self.name} cannot be loaded: {str(error)[:300]}"
            ) from error
        if self._template is not None:
            self._tokenizer.chat_template = self._template
        if self._device is not None:
            model = model.to(self._device)
        self._model = model.eval()

    @property
    def takes_tools(self) -> bool:
        """Whether the model's template has a place for tools; True while it is not loaded."""
        template: Any = getattr(self._tokenizer, "chat_template", None)
        return template is None or "tools" in str(template)

    def generate(self, asked: Generation) -> Generated:
        """Return an answer, and pass on its pieces as they come.

        Raises:
            NotFoundError: As `load`.
            ConfigurationError: Tools that the model's template has no place for.
            BadRequestError: Something the template or the library does not take, or too little
                memory.
            ContextWindowExceededError: The prompt leaves no room in the window.
        """
        self.load()
        if asked.tools and not self.takes_tools:
            raise ConfigurationError(f"huggingface/{self.name} calls no tools: its template has no")
        inputs = self._prompt(asked)
        count = int(inputs["input_ids"].shape[1])
        window = self._window()
        room = None if window is None else window - count
        if room is not None and room < 1:
            raise ContextWindowExceededError(
                f"the prompt for huggingface/{self.name} has {count:,} tokens, and its window "
                f"{window:,}"
            )
        most = min(value for value in (asked.max_tokens, room, 10**6) if value is not None)
        # Some models begin their calls of tools with a special token.
        writer = TextWriter(
            self._tokenizer,
            self._end_ids(),
            asked.stop,
            asked.emit,
            with_special=bool(asked.tools),
        )
        try:
            self._run(inputs, most, writer, asked)
        except (ValueError, TypeError) as error:
            raise BadRequestError(f"huggingface/{self.name}: {str(error)[:300]}") from error
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise BadRequestError(
                f"huggingface/{self.name}: there is not enough memory for a prompt of {count:,} "
                f"tokens and an answer of up to {most:,}: ask for less, or load a smaller model"
            ) from error
        finally:
            writer.end()
        reason: FinishReason = "stop"
        if writer.count >= most and not writer.is_done:
            reason = "length" if most == asked.max_tokens else "context_window"
        text, calls = writer.text, tuple[ToolCall, ...]()
        if asked.tools:
            names = {tool["function"]["name"] for tool in asked.tools}
            text, calls = calls_in(text, names)
            for token in self._tokenizer.all_special_tokens:
                text = text.replace(token, "")
        if calls and reason == "stop":
            reason = "tool_calls"
        return Generated(text.strip() if calls else text, calls, reason, count, writer.count)

    def _run(self, inputs: Any, most: int, writer: TextWriter, asked: Generation) -> None:
        torch: Any = importlib.import_module("torch")

        def is_over(ids: Any, scores: Any, **_: Any) -> Any:
            del scores
            is_over = writer.is_done or asked.is_stopped.is_set()
            return torch.full((ids.shape[0],), is_over, dtype=torch.bool, device=ids.device)

        criteria: Any = importlib.import_module("transformers").StoppingCriteriaList([is_over])
        options: dict[str, Any] = {"max_new_tokens": most, **asked.options}
        if self._model.generation_config.pad_token_id is None:
            # One answer at a time needs no padding, and transformers warns where it is not named.
            options.setdefault("pad_token_id", min(self._end_ids(), default=0))
        if asked.is_stopped.is_set():
            return
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if asked.seed is not None:
                # The user's own draws go on as if nothing had been drawn here.
                stack.enter_context(torch.random.fork_rng())
                torch.manual_seed(asked.seed)
            self._model.generate(
                **inputs.to(self._model.device),
                streamer=writer,
                stopping_criteria=criteria,
                **options,
            )

    def _end_ids(self) -> set[int]:
        given: Any = getattr(self._model.generation_config, "eos_token_id", None)
        ids = {self._tokenizer.eos_token_id}
        ids.update(given if isinstance(given, list) else [given])  # pyright: ignore[reportUnknownArgumentType]
        return ids - {None}

    def _window(self) -> int | None:
        """Return the tokens of prompt and answer together, as the tokenizer or the model says."""
        config: Any = self._model.config
        config = getattr(config, "text_config", None) or config
        said = (
            getattr(self._tokenizer, "model_max_length", None),
            getattr(config, "max_position_embeddings", None),
        )
        known = [number for number in said if isinstance(number, int) and number < _NO_WINDOW]
        return min(known, default=None)

    def _prompt(self, asked: Generation) -> Any:
        """Return the conversation in the model's own form."""
        if getattr(self._tokenizer, "chat_template", None) is None:
            raise BadRequestError(
                f"huggingface/{self.name} has no chat template, so that it is likely no chat "
                "model; give chat_template where it is one"
            )
        errors: Any = importlib.import_module("jinja2").TemplateError
        refusal: Exception | None = None
        for messages in _forms([_message(message) for message in asked.messages]):
            try:
                return self._tokenizer.apply_chat_template(
                    messages,
                    tools=[dict(tool) for tool in asked.tools] or None,
                    add_generation_prompt=True,
                    return_dict=True,
                    return_tensors="pt",
                )
            except errors as error:
                refusal = refusal or error
        raise BadRequestError(
            f"the template of huggingface/{self.name} does not take the conversation: {refusal}"
        ) from refusal


class LoadedModels:
    """The models of this process, least recently used first; one of them may have many users."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: OrderedDict[Hashable, LoadedModel] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], LoadedModel], most: int) -> LoadedModel:
        """Return the model of a key, made if need be; others are let go until `most` are left.

        One that is let go ends the work it has.
        """
        with self._lock:
            model = self._models.pop(key, None) or make()
            self._models[key] = model
            while len(self._models) > most:
                _, dropped = self._models.popitem(last=False)
                dropped.worker.end()
        return model


MODELS = LoadedModels()


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception of torch says so; what it had reserved is then given back."""
    if type(error).__name__ not in {"OutOfMemoryError", "TorchOutOfMemoryError"}:
        return False
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    return True


def _message(message: Message) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    text = only_text(message, "transformers")
    written: dict[str, Any] = {"role": role, "content": text}
    if message.name is not None:
        written["name"] = message.name
    if message.tool_call_id is not None:
        written["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        # Templates write the arguments themselves: they want the object.
        written["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": arguments_of(call)},
            }
            for call in message.tool_calls
        ]
    return written


def _forms(messages: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return a conversation as it is, then as templates take it that know no system prompt."""
    system = [message["content"] for message in messages if message["role"] == "system"]
    rest = [dict(message) for message in messages if message["role"] != "system"]
    if not system or not rest or rest[0]["role"] != "user":
        return [messages]
    rest[0]["content"] = "\n\n".join([*system, rest[0]["content"]])
    return [messages, rest]
