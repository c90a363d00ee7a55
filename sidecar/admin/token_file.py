"""The file of admin tokens that `PORTCULLIS_ADMIN_TOKENS_FILE` names, and its changes.

    # NAME    ROLE      TOKEN, or its hash: printf %s "$TOKEN" | sha256sum
    grafana   viewer    sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824
    alice     operator  a-token-of-visible-characters

A name may stand on several lines with one role: that is how a token is replaced without a gap. The file is
read again when it has changed; while it cannot be read, what it said last is in force. Links are followed,
for that is how Kubernetes mounts a secret, and its default mode 0644 is taken; what others may write is not.
Where others may read tokens themselves, a warning says so: hashes would tell them nothing.

This module does not know what a role may do.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from sidecar.admin.tokens import VARIABLE as TOKEN_VARIABLE
from sidecar.admin.tokens import Holder, Role, Token, Tokens, TokenUnusable, admin_token, digest_of, usable

VARIABLE: Final = "PORTCULLIS_ADMIN_TOKENS_FILE"
LOOK_S: Final = 1.0
"""How often the file is looked at, at most: only when somebody presents a token."""
MAX_FILE_BYTES: Final = 1 << 20
MAX_TOKENS: Final = 1_000
"""Each try is compared with all of them."""
RESERVED: Final = frozenset({"local", "trigger"})
"""Names under which the gate itself appears in the audit."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,62}")
_HASH: Final = re.compile(r"sha256:([0-9A-Fa-f]{64})")
_log = logging.getLogger("portcullis.admin")

Stamp = tuple[int, int, int, int]


class Access(NamedTuple):
    """Who may use the admin plane of one gate.

    token     the single token, for whoever sits at the terminal; None when a file alone gives tokens
    explicit  whether the operator chose them: only then may the admin plane leave loopback
    """

    tokens: Tokens
    token: Token | None
    explicit: bool


def access_of(
    environment: Mapping[str, str], state_dir: Path, *, mono_s: Callable[[], float] = time.monotonic
) -> Access:
    """The tokens that the environment gives, else one of `state_dir`, which is made if there is none.

    Raises TokenUnusable, and OSError when no token can be kept in `state_dir`.
    """
    named = environment.get(VARIABLE, "")
    if not named:
        token = admin_token(environment, state_dir)
        return Access(Tokens([token.secret], holder=token.holder), token, token.explicit)
    file = TokenFile(Path(named), mono_s=mono_s)
    if not environment.get(TOKEN_VARIABLE):
        return Access(Tokens([], file), None, explicit=True)
    token = admin_token(environment, state_dir)
    return Access(Tokens([token.secret], file, holder=token.holder), token, explicit=True)


class TokenFile:
    """The tokens of one file, as hashes, as it is now. Raises TokenUnusable when it is no good at first."""

    def __init__(self, path: Path, *, mono_s: Callable[[], float]) -> None:
        self._path = path
        self._mono_s = mono_s
        self._looked_s = mono_s()
        self._stamp = _stamp(path)
        self._digests = read_tokens(path)

    def digests(self) -> Mapping[bytes, Holder]:
        now_s = self._mono_s()
        if now_s - self._looked_s >= LOOK_S:
            self._looked_s = now_s
            self._look()
        return self._digests

    def _look(self) -> None:
        stamp = _stamp(self._path)  # before it is read: what changes meanwhile is noticed by the next look
        if stamp == self._stamp:
            return
        try:
            self._digests = read_tokens(self._path)
        except TokenUnusable as exc:
            _log.error("the admin tokens stay as they were: %s", exc)
        else:
            _log.info("%s: %d admin tokens", self._path, len(self._digests))
        self._stamp = stamp


def read_tokens(path: Path) -> dict[bytes, Holder]:
    """Whose token it is, by the token's SHA-256. Raises TokenUnusable naming the file and each bad line."""
    text, exposed = _text(path)
    found: dict[bytes, Holder] = {}
    roles: dict[str, Role] = {}
    errors: list[str] = []
    plain = False
    for number, line in enumerate(text.split("\n"), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            holder, digest = _entry(words)
            if roles.setdefault(holder.name, holder.role) is not holder.role:
                raise ValueError(f"{holder.name} has another role above: one name, one role")
            if digest in found:
                raise ValueError(f"the token of {found[digest].name} again: nobody could tell who it was")
        except ValueError as exc:
            errors.append(f"{path}:{number}: {exc}")
            continue
        found[digest] = holder
        plain = plain or not words[2].startswith("sha256:")
    if not errors and not found:
        errors.append(f"{path}: names no token: write lines of NAME ROLE TOKEN")
    if len(found) > MAX_TOKENS:
        errors.append(f"{path}: more than {MAX_TOKENS} tokens")
    if errors:
        raise TokenUnusable("\n".join(errors[:20]))
    if exposed and plain:
        _log.warning("%s: others may read the tokens in it: write sha256: hashes, or take mode 0640", path)
    return found


def _entry(words: list[str]) -> tuple[Holder, bytes]:
    """Raises ValueError without repeating what may be a secret."""
    if len(words) < 3 or (len(words) > 3 and not words[3].startswith("#")):
        raise ValueError("expected NAME ROLE TOKEN, with spaces between them")
    name, role, secret = words[:3]
    if not _NAME.fullmatch(name):
        raise ValueError("a name is a letter or digit, then up to 62 of A-Z a-z 0-9 _ . @ -")
    if name in RESERVED:
        raise ValueError(f"the name {name} is the gate's own: choose another")
    if role not in {known.value for known in Role}:
        raise ValueError("the role is one of viewer, operator, admin")
    if secret.startswith("sha256:"):
        found = _HASH.fullmatch(secret)
        if found is None:
            raise ValueError("after sha256: stand 64 hexadecimal digits")
        digest = bytes.fromhex(found[1])
        if digest == digest_of(""):
            raise ValueError(
                'this is the hash of an empty text: set TOKEN, then printf %s "$TOKEN" | sha256sum'
            )
        return Holder(name, Role(role)), digest
    try:
        return Holder(name, Role(role)), digest_of(usable(secret, "the token"))
    except TokenUnusable as exc:
        raise ValueError(str(exc)) from None


def _text(path: Path) -> tuple[str, bool]:
    """The text, and whether everybody on this machine may read it."""
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise TokenUnusable(f"{path}: is no file")
            if status.st_mode & 0o002:
                raise TokenUnusable(f"{path}: anybody may write it: take mode 0640, or 0600")
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise TokenUnusable(f"{path}: larger than {MAX_FILE_BYTES >> 20} MiB")
        return data.decode("utf-8-sig"), bool(status.st_mode & 0o004)
    except OSError as exc:
        raise TokenUnusable(f"{path}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise TokenUnusable(f"{path}: is not UTF-8 text (byte {exc.start})") from None


def _without_waiting(path: str, flags: int) -> int:
    """Opens a pipe at once: waiting for who writes it would keep the gate for ever."""
    return os.open(path, flags | os.O_NONBLOCK)


def _stamp(path: Path) -> Stamp | None:
    """What changes when the file, its rights, or what it links to, change. None when it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size
