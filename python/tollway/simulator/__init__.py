"""A provider on this machine, for tests, benchmarks and capacity planning.

    from tollway.simulator import Simulator

    with Simulator(rpm=600, tpm=120_000) as sim:
        client = openai.OpenAI(base_url=sim.base_url, api_key="any")

It speaks OpenAI's embeddings and chat completions over HTTP, and Anthropic's, Gemini's, Bedrock's
and Ollama's at the same address without `/v1`. It holds requests to limits as OpenAI does, fails on
demand, and keeps a ledger of what it was asked. Every vector is a function of its text (`vector`)
and every answer one of the conversation (`reply`), so that a test can tell a wrong one.
"""

from tollway.simulator.answers import reply
from tollway.simulator.batches import BatchBehaviour
from tollway.simulator.enforcement import Denial, Enforcement, Standing
from tollway.simulator.faults import FAULTS, Faults
from tollway.simulator.ledger import Ledger, Record
from tollway.simulator.simulator import Simulator
from tollway.simulator.vectors import digest, vector

__all__ = [
    "FAULTS",
    "BatchBehaviour",
    "Denial",
    "Enforcement",
    "Faults",
    "Ledger",
    "Record",
    "Simulator",
    "Standing",
    "digest",
    "reply",
    "vector",
]
