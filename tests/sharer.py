"""A process that takes from a shared limiter whatever it may, and writes down what it got.

Run: `python sharer.py OPTIONS`, a JSON object: name, limits, record (a file), sizes (tokens of a
request, drawn from), hold (seconds that a reservation is under way; 0 takes none), threads, seed,
spread (so many in the first second, evenly, so that later ones fall due evenly too).
"""

from __future__ import annotations

import json
import os
import random
import struct
import sys
import threading
import time

from tollway import Limits, RateLimiter

RECORD = struct.Struct("<ddI")


def main():
    options = json.loads(sys.argv[1])
    limiter = RateLimiter(Limits(**options["limits"]), shared=options["name"], margin=0)
    record = os.open(options["record"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    draw = random.Random(options["seed"])

    def take():
        while True:
            tokens = draw.choice(options["sizes"])
            before = time.monotonic()
            if options["hold"]:
                with limiter.reserve(tokens=tokens) as permit:
                    permit.sent()
                    os.write(record, RECORD.pack(before, time.monotonic(), tokens))
                    time.sleep(options["hold"])
            else:
                limiter.acquire_sync(tokens)
                os.write(record, RECORD.pack(before, time.monotonic(), tokens))

    for number in range(options["spread"]):
        if number == 0:
            begun = time.monotonic()
        time.sleep(max(0.0, begun + number / options["spread"] - time.monotonic()))
        before = time.monotonic()
        limiter.acquire_sync(1)
        os.write(record, RECORD.pack(before, time.monotonic(), 1))
    for _ in range(options["threads"] - 1):
        threading.Thread(target=take, daemon=True).start()
    take()


if __name__ == "__main__":
    main()
