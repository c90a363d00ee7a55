"""Write a proxy's configuration with other addresses: addresses.py FROM TO OLD NEW [OLD NEW ...]

Each OLD must stand in the file exactly once, so that a file that was edited never starts with half of its addresses.
It reads no configuration format: what OLD and NEW mean is for the caller to know.
"""

import sys
from pathlib import Path


def main(source: str, target: str, *pairs: str) -> None:
    """Raises SystemExit for an OLD that does not stand there exactly once."""
    text = Path(source).read_text(encoding="utf-8")
    for old, new in zip(pairs[::2], pairs[1::2], strict=True):
        if (found := text.count(old)) != 1:
            raise SystemExit(f"{source}: {old!r} stands there {found} times, expected once")
        text = text.replace(old, new)
    Path(target).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
