"""Completions: one API over every provider, paced, retried and priced."""

from tollway.chat.availability import Availability
from tollway.chat.items import ItemOutcome, batch_items, batch_items_sync
from tollway.chat.llm import LLM
from tollway.chat.map import MapProgress, Outcome
from tollway.chat.request import CallOptions
from tollway.chat.roles import Roles
from tollway.chat.stream import ChatStream, SyncChatStream
from tollway.chat.template import Template
from tollway.chat.tools import ToolRun

__all__ = [
    "LLM",
    "Availability",
    "CallOptions",
    "ChatStream",
    "ItemOutcome",
    "MapProgress",
    "Outcome",
    "Roles",
    "SyncChatStream",
    "Template",
    "ToolRun",
    "batch_items",
    "batch_items_sync",
]
