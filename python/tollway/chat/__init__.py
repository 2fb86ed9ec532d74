"""Completions: one API over every provider, paced, retried and priced."""

from tollway.chat.llm import LLM
from tollway.chat.request import CallOptions
from tollway.chat.stream import ChatStream, SyncChatStream

__all__ = ["LLM", "CallOptions", "ChatStream", "SyncChatStream"]
