"""Finds text to test on.

That is every `.txt` file of the folder that `TOLLWAY_CORPORA` names, otherwise text that comes with
the interpreter.
"""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path


def corpora() -> dict[str, str]:
    """Texts by name; none is empty."""
    folder = os.environ.get("TOLLWAY_CORPORA")
    if folder:
        return {
            path.stem: path.read_text(encoding="utf-8")
            for path in sorted(Path(folder).glob("*.txt"))
        }
    return {"english": _prose(), "python": _sources(), "unicode": _unicode()}


def _prose() -> str:
    from pydoc_data.topics import topics  # noqa: PLC0415  (700 KB of text, read when asked for)

    return "\n\n".join(topics.values())


def _sources() -> str:
    library = Path(sysconfig.get_paths()["stdlib"])
    names = ["argparse.py", "ast.py", "datetime.py", "decimal.py", "typing.py"]
    found = [library / name for name in names if (library / name).is_file()]
    return "\n".join(path.read_text(encoding="utf-8") for path in found)


def _unicode() -> str:
    """Every assigned or unassigned character once, in lines between letters, digits and spaces."""
    points = (chr(code) for code in range(0x80, 0x3_2000) if not 0xD800 <= code < 0xE000)
    return "".join(f"{c}a {c}'{c}1\n" if i % 7 else c for i, c in enumerate(points))
