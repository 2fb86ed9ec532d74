"""LiteLLM's router in a process of its own: it asks for another openai than tollway is tested with.

    PYTHONPATH=.venv/litellm python benches/python/litellm_peer.py BASE_URL MODEL CONCURRENCY

Each line on the standard input is a number of calls to make; the answer is the seconds of CPU that
one took, all threads of the process together.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

# Without, its import asks a server on the network for its list of prices.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
from litellm import Router

MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


async def run(router: Router, model: str, calls: int, concurrency: int) -> float:
    numbers = iter(range(calls))

    async def work() -> None:
        for _ in numbers:
            await router.acompletion(model, MESSAGES, temperature=0.0, max_tokens=4000)

    began = time.process_time()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    return (time.process_time() - began) / calls


def main() -> None:
    base_url, model, concurrency = sys.argv[1:]
    endpoint = {"model": f"openai/{model}", "api_base": base_url, "api_key": "k"}
    router = Router([{"model_name": model, "litellm_params": endpoint}], num_retries=0)
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            print(runner.run(run(router, model, int(line), int(concurrency))), flush=True)


if __name__ == "__main__":
    main()
