"""Does anything stay open after thousands of calls: tasks, files, sockets, threads, memory?

Run: `python benches/python/soak_leaks.py [--calls 10000] [--provider openai ...]`. Each provider's
calls are answered, fail, are left in the middle of a stream, or cancelled. Prints a line for each
with what is open before, with its connections kept, and after they are closed, and by how much the
memory grew in each half of the calls; fails with an AssertionError where something stays open, or
the second half grows by more than a tenth of a kilobyte a call.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import sys
from pathlib import Path

# The tests make some hundred calls with the same code.
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from leaks import CONCURRENCY, PROVIDERS, Census, calls, provider, settled
from tollway.simulator import Ledger

# What the allocator and the caches of the libraries may take, and then per call.
SLACK, A_CALL = 4_000_000, 100


def resident() -> int:
    """Return the bytes of memory that this process holds; 0 where the system does not tell."""
    gc.collect()
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * 4096 if statm.exists() else 0


async def soak(name: str, count: int) -> None:
    async with provider(name) as (llm, sim):
        await calls(llm, count // 10, seed=1)
        sim.ledger = Ledger()
        await llm.aclose()
        before, memory = await settled(llm), [resident()]
        ends: dict[str, int] = {}
        for half in range(2):
            for end, times in (await calls(llm, count // 2, seed=2 + half)).items():
                ends[end] = ends.get(end, 0) + times
            kept = Census.take(llm)
            sim.ledger = Ledger()
            memory.append(resident())
        await llm.aclose()
        after = await settled(llm, before)
    first, second = memory[1] - memory[0], memory[2] - memory[1]
    print(f"{name}: {', '.join(f'{times} {end}' for end, times in sorted(ends.items()))}")
    print(f"  before {before}\n  kept   {kept}\n  after  {after}")
    print(f"  memory {first / 1e6:+.1f} MB, then {second / 1e6:+.1f} MB", flush=True)
    assert kept.files <= before.files + 10 * CONCURRENCY, f"{name} opens more and more"
    assert after == before, f"{name} leaves something open"
    assert second <= SLACK + A_CALL * count // 2, f"{name} grows"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=10_000, help="of each provider")
    parser.add_argument("--provider", nargs="+", choices=PROVIDERS, default=list(PROVIDERS))
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    for name in given.provider:
        asyncio.run(soak(name, given.calls))


if __name__ == "__main__":
    main()
