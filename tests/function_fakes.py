"""Functions as providers, for tests: what makes an `LLM` or an `Embedder` of one."""

from __future__ import annotations

import httpx

from tollway import LLM, Embedder, RetryPolicy

NO_WAIT = RetryPolicy(max_retries=3, base_delay=0.0, max_delay=0.0)


def llm_of(function, model=None, **options):
    return LLM(model, llm_model_func=function, **{"retry": NO_WAIT, **options})


def embedder_of(function, model=None, **options):
    return Embedder(model, embedding_func=function, **{"retry": NO_WAIT, **options})


def failing(*script):
    """A function that raises or returns the next of `script`; its calls are counted."""
    steps = list(script)

    async def function(prompt, system_prompt=None, history_messages=(), **kwargs):
        function.calls += 1
        step = steps.pop(0) if len(steps) > 1 else steps[0]
        if isinstance(step, Exception):
            raise step
        return step

    function.calls = 0
    return function


def refusal(status, body=None, headers=()):
    request = httpx.Request("POST", "http://127.0.0.1/")
    answer = httpx.Response(status, json=body or {}, headers=dict(headers), request=request)
    return httpx.HTTPStatusError("refused", request=request, response=answer)
