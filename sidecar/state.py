"""What a gate finds on this machine before it starts: its state directory, its hash key, its files' stamps.

It reads and locks; what is kept in the directory is others' business (the token, the embedded store,
the last known control state).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

HASH_KEY: Final = "PORTCULLIS_HASH_KEY"


class StateUnusable(Exception):
    """The state directory or the hash key cannot be used; the text says why and what to do."""


@contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    """The state directory, made and writable, for one gate at a time. Raises StateUnusable."""
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (state_dir / "lock").open("w")
    except OSError as exc:
        remedy = "choose a directory that this user can write"
        raise StateUnusable(f"state_dir: {state_dir}: {exc.strerror}; {remedy}") from exc
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise StateUnusable(f"state_dir: {state_dir}: another gate uses it; give each its own") from exc
        except OSError as exc:
            raise StateUnusable(f"state_dir: {state_dir}: cannot be locked: {exc.strerror}") from exc
        yield


def hash_key_of(env: Mapping[str, str]) -> bytes | None:
    """The fleet's hash key from the environment or the file it names; None: made once in the store.

    Raises StateUnusable.
    """
    text = env.get(HASH_KEY, "")
    if file := env.get(f"{HASH_KEY}_FILE", ""):
        if text:
            raise StateUnusable(f"{HASH_KEY} and {HASH_KEY}_FILE are both set; set one")
        try:
            text = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise StateUnusable(f"{HASH_KEY}_FILE: {file} cannot be read: {exc}") from exc
        if not text:
            raise StateUnusable(f"{HASH_KEY}_FILE: {file} is empty; make one with: openssl rand -hex 32")
    if not text:
        return None
    key = text.encode()
    if not 16 <= len(key) <= 64:
        remedy = "make one with: openssl rand -hex 32"
        raise StateUnusable(f"{HASH_KEY}: expected 16 to 64 bytes, got {len(key)}; {remedy}")
    return key


class Stamp(NamedTuple):
    """What changes when a file's content does: it was written, replaced, or a link on its way was switched."""

    device: int
    inode: int
    mtime_ns: int
    size: int


def stamps(files: Iterable[Path]) -> dict[Path, Stamp | None]:
    """A stamp for each file, links followed; None for one that is not there."""
    return {file: _stamp(file) for file in files}


def _stamp(file: Path) -> Stamp | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return Stamp(status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
