"""Skips this folder where torch, transformers or sentence-transformers are not installed.

`make test-hf` installs them, which takes minutes: ordinary CI goes without.
"""

from __future__ import annotations

import importlib.util

collect_ignore_glob = []
if None in map(importlib.util.find_spec, ("torch", "transformers", "sentence_transformers")):
    collect_ignore_glob = ["test_*.py"]
