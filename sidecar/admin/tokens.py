"""Who may use the admin plane: bearer tokens, kept as hashes.

The secret is read once, from the environment or from a file that `admin_token` makes, and
only its SHA-256 stays in memory. Tokens are random and long, so a fast hash is enough; comparing
hashes in constant time tells nothing of how much of a guess was right.

This module does not answer requests and does not print secrets.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

VARIABLE: Final = "PORTCULLIS_ADMIN_TOKEN"
FILE_NAME: Final = "admin-token"
MAX_SECRET: Final = 1_024


class TokenUnusable(Exception):
    """A token was given that cannot be used; the text names where it comes from and the remedy."""


@dataclass(frozen=True, slots=True)
class Token:
    """The secret that opens the admin plane, and where it comes from."""

    secret: str = field(repr=False)
    path: Path | None = None
    """The file that it was read from; None when the environment gave it."""
    made: bool = False
    """Whether it was made just now."""

    @property
    def explicit(self) -> bool:
        """Whether the operator chose it: only then may the admin plane leave loopback."""
        return self.path is None


class Tokens:
    """The secrets that are accepted, as hashes."""

    __slots__ = ("_digests",)

    def __init__(self, accepted: Iterable[str]) -> None:
        self._digests = tuple(_digest(secret) for secret in accepted)

    def accept(self, presented: str) -> bool:
        """Whether this is one of them. Takes as long for any wrong guess of one length."""
        digest = _digest(presented)
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return any(matches)


def admin_token(environment: Mapping[str, str], state_dir: Path) -> Token:
    """The token of `PORTCULLIS_ADMIN_TOKEN`, else of `state_dir/admin-token`, which is made if there is none.

    The command line reads the same places with `read_token`. Raises TokenUnusable, and OSError when the
    directory cannot be written.
    """
    return read_token(environment, state_dir) or _made(state_dir / FILE_NAME)


def read_token(environment: Mapping[str, str], state_dir: Path) -> Token | None:
    """The token, without making one. Raises TokenUnusable and, when the file cannot be read, OSError."""
    given = environment.get(VARIABLE, "")
    if given:
        return Token(_usable(given, VARIABLE))
    path = state_dir / FILE_NAME
    try:
        # A link would let who may write the directory choose any file of ours.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with open(descriptor, encoding="utf-8", errors="replace") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
            raise TokenUnusable(f"{path}: others may read it; remove it, or make it a file with mode 0600")
        text = file.read(MAX_SECRET + 2)
    return Token(_usable(text.removesuffix("\n"), str(path)), path)


def _made(path: Path) -> Token:
    """Make the file: whole or not at all, and only if there is none still."""
    secret = secrets.token_urlsafe(32)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(f"{secret}\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # unlike a rename, fails when another process was first
    except FileExistsError:
        token = read_token({}, path.parent)
        assert token is not None, "a token file went away while it was read"
        return token
    finally:
        draft.unlink()
    return Token(secret, path, made=True)


def _usable(secret: str, where: str) -> str:
    if not secret or len(secret) > MAX_SECRET or not all("!" <= c <= "~" for c in secret):
        raise TokenUnusable(f"{where}: a token is 1 to {MAX_SECRET} visible ASCII characters without spaces")
    return secret


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
