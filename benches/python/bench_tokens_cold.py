"""What does a fresh process pay: for a first count, for its first megabyte, in memory?

`python benches/python/bench_tokens_cold.py` starts a process for every figure. The first count is
of two words; the first megabyte comes when the encoder is loaded.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from token_peers import NAMES, TITLES, kilobyte_texts, report, verdict
from tollway import _core
from tollway.tokens import get_encoding

ROUNDS = 7

# `load` makes `count`, which takes a list of texts.
LOAD = {
    "tollway": """
from tollway.tokens import get_encoding
encoding = get_encoding(name)
def count(texts):
    return encoding.count(texts[0]) if len(texts) == 1 else encoding.count_batch(texts)
""",
    "toktok": """
import toktok
toktok._encoding(name)
def count(texts): return toktok.batch_count(texts, name, threads=1)
""",
    "gigatoken": """
import gigatoken
encoding = gigatoken.Tokenizer.from_tiktoken(f"{folder}/{name}.tiktoken")
def count(texts): return encoding.encode_batch(texts, parallel=False)
""",
    "tiktoken": """
import os
os.environ["TIKTOKEN_CACHE_DIR"] = folder
import tiktoken
encoding = tiktoken.get_encoding(name)
def count(texts): return [len(encoding.encode_ordinary(text)) for text in texts]
""",
}
SCRIPT = """
import json, os, sys, time
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
name, folder, load = sys.argv[1:]
texts = json.load(open(f"{folder}/texts.json"))
def resident():
    try:
        fields = open("/proc/self/statm").read().split()
    except OSError:
        return 0
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
start = time.process_time()
exec(load)
count(["hello world"])
first = time.process_time()
memory = resident()
if "numpy" not in sys.modules and "tollway" in sys.modules:
    import numpy
begin = time.process_time()
count(texts)
end = time.process_time()
print(json.dumps([first - start, end - begin, memory, resident()]))
"""


def _run(library: str, name: str, folder: str) -> list[float]:
    command = [sys.executable, "-c", SCRIPT, name, folder, LOAD[library]]
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    return json.loads(result.stdout)


def _tiktoken_cache(folder: Path, name: str) -> None:
    """Our rank file where tiktoken looks for the one that it downloads."""
    import hashlib

    url = f"https://openaipublic.blob.core.windows.net/encodings/{name}.tiktoken"
    digest = hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()
    file = get_encoding(name).rank_file()
    (folder / digest).write_bytes(file)
    (folder / f"{name}.tiktoken").write_bytes(file)


def main() -> None:
    """Print the comparison."""
    memory: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in NAMES:
            _tiktoken_cache(Path(folder), name)
            for title in TITLES:
                texts = Path(folder) / "texts.json"
                texts.write_text(json.dumps(kilobyte_texts(title, 1_000_000)))
                runs = {library: [] for library in LOAD}
                for _ in range(ROUNDS):
                    for library, results in runs.items():
                        results.append(_run(library, name, folder))
                pick = lambda at: {k: [run[at] for run in v] for k, v in runs.items()}  # noqa: E731, B023
                if title == TITLES[0]:
                    report(f"import + first {name}", pick(0), 1e3, "ms", {"tiktoken": 5.0})
                    report(f"resident after {name}", pick(2), 1, "MB")
                    memory.append(statistics.median(pick(2)["tollway"]))
                goals = {"tiktoken": 4.0, "toktok": 1.3}
                report(f"first MB {name} {title}", pick(1), 1e3, "ms", goals)
    print("resident without numpy, 40 MB at most", verdict(40 / max(memory), 1.0, "40 MB / "))
    size = Path(_core.__file__).stat().st_size / 1e6
    print(f"extension {size:.1f} MB, 15 MB at most", verdict(15 / size, 1.0, "15 MB / "))


if __name__ == "__main__":
    main()
