"""Who may use the admin plane: bearer tokens with a name and a role, kept as hashes.

    PORTCULLIS_ADMIN_TOKEN        one token, named "admin", role admin
    PORTCULLIS_ADMIN_TOKENS_FILE  a file with any number: see `token_file`
    state_dir/admin-token         made when neither is given; named "local", role admin

The first two may be given together. A secret is read once and only its SHA-256 stays in memory.
Tokens are random and long, so a fast hash is enough; comparing hashes in constant time tells
nothing of how much of a guess was right.

This module does not answer requests and does not print secrets.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple, Protocol

VARIABLE: Final = "PORTCULLIS_ADMIN_TOKEN"
FILE_NAME: Final = "admin-token"
MAX_SECRET: Final = 1_024


class Role(Enum):
    """What a token may do: each role may what those before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def __init__(self, _: str) -> None:
        self.rank: int = len(type(self).__members__)


class Holder(NamedTuple):
    """Whose token it is. The name stands in the audit."""

    name: str
    role: Role


LOCAL: Final = Holder("local", Role.ADMIN)
"""Who has the token that the gate made itself."""


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

    @property
    def holder(self) -> Holder:
        return Holder("admin", Role.ADMIN) if self.explicit else LOCAL


class Known(Protocol):
    """More tokens, which may change."""

    def digests(self) -> Mapping[bytes, Holder]:
        """Whose token it is, by the token's SHA-256."""


class Tokens:
    """The tokens that are accepted, as hashes: the secrets of `holder`, and what `file` says at the time."""

    __slots__ = ("_digests", "_file")

    def __init__(self, accepted: Iterable[str], file: Known | None = None, *, holder: Holder = LOCAL) -> None:
        self._digests = {digest_of(secret): holder for secret in accepted}
        self._file = file

    def accept(self, presented: str) -> Holder | None:
        """Whose token this is, or None. Takes as long for any wrong guess of one length; nothing is no token."""
        if not presented:
            return None
        digest = digest_of(presented)
        matches = [holder for known, holder in self._known() if hmac.compare_digest(digest, known)]
        return matches[0] if matches else None

    def _known(self) -> Iterator[tuple[bytes, Holder]]:
        yield from self._digests.items()
        if self._file is not None:
            yield from self._file.digests().items()


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
        return Token(usable(given, VARIABLE))
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
    return Token(usable(text.removesuffix("\n"), str(path)), path)


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


def usable(secret: str, where: str) -> str:
    """The secret, when a header can carry it. Raises TokenUnusable."""
    if not secret or len(secret) > MAX_SECRET or not all("!" <= c <= "~" for c in secret):
        raise TokenUnusable(f"{where}: a token is 1 to {MAX_SECRET} visible ASCII characters without spaces")
    return secret


def digest_of(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
