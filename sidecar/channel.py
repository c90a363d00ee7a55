"""What a parent and its workers say to each other, and how it crosses the socketpair between them.

    parent ── Begin ──────────────────────────> worker ── READY
    parent ── Prepare, then COMMIT or ABORT ──> worker ── PREPARED or Refused, then COMMITTED
    parent ── Find ───────────────────────────> worker ── Found
    parent ── Stop ───────────────────────────> worker ends

A frame is the length of its body (8 bytes, network order) and the body, a pickle: both ends are
processes of one gate, of one version, and nobody else holds an end. The end of the stream is a
message too: the other process is gone.

What is done about a message is `workers`' and `worker`'s business.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
from dataclasses import dataclass, field
from enum import Enum
from struct import Struct
from typing import Final, Self, cast

from sidecar.config import Config
from sidecar.metrics import Layout

READ_AHEAD: Final = 1 << 20
"""Bytes: a configuration with long address lists takes megabytes."""

_LENGTH: Final = Struct("!Q")


@dataclass(frozen=True, slots=True)
class Begin:
    """Decide by this configuration."""

    config: Config
    layout: Layout
    replica_id: str
    store_url: str = field(repr=False)
    hash_key: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Prepare:
    """Get ready to switch to this configuration."""

    config: Config
    layout: Layout


@dataclass(frozen=True, slots=True)
class Find:
    """Look for what was decided about a request."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Found:
    """The log's lines of these decisions, perhaps none."""

    lines: list[bytes]


@dataclass(frozen=True, slots=True)
class Stop:
    """Answer what is under way, for at most so long, and end."""

    grace_s: float


@dataclass(frozen=True, slots=True)
class Refused:
    """This worker cannot switch; `why` is for the operator."""

    why: str


class Word(Enum):
    """Messages that say all by their name."""

    READY = "ready"
    PREPARED = "prepared"
    COMMIT = "commit"
    COMMITTED = "committed"
    ABORT = "abort"


Message = Begin | Prepare | Find | Found | Stop | Refused | Word


def framed(message: Message) -> bytes:
    """The bytes of a message: made once, and sent to as many as it takes."""
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


class Channel:
    """One end of the socketpair."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Self:
        """The channel over one end, which it owns from now on."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=READ_AHEAD))

    def send(self, frame: bytes) -> None:
        """Send a message, as `framed` made it, without waiting until it has arrived."""
        self._writer.write(frame)

    async def receive(self) -> Message | None:
        """The next message; None when the other process is gone."""
        try:
            head = await self._reader.readexactly(_LENGTH.size)
            body = await self._reader.readexactly(*_LENGTH.unpack(head))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return cast("Message", pickle.loads(body))

    def close(self) -> None:
        self._writer.close()
