"""A plane's door: accepts connections, and holds no more of them than it has room for.

    listener ──> room? ──> accept ──> TLS, on the way ──> the application
                  └─ none: the oldest is closed first

What counts is the descriptor, from `accept` until it is closed, and not the connection that an application
knows: a client that never shakes hands takes room like any other. A loop's own server accepts as many at once
as the kernel has waiting; this one accepts one after the other, so that a burst waits in the kernel, and
nothing else in the process runs out of descriptors.

Probes, scrapes and requests for tokens are short: what is old is idle or stuck.

What is said over a connection is not known here.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from sidecar.supervision import persistently

MAX_CONNECTIONS: Final = 128
"""Descriptors that clients hold, at most and at any moment."""
HANDSHAKE_S: Final = 5.0
STARVED_S: Final = 0.1
"""How long nothing is accepted after the system refused: what lacks (descriptors, memory) is not ours to free."""


class Door:
    """Lets clients in to protocols of `connect`. `tls` is what the next handshake is made with."""

    def __init__(
        self,
        listener: socket.socket,
        connect: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext | None,
    ) -> None:
        self.tls = tls
        self._listener = listener
        self._connect = connect
        self._held: dict[socket.socket, asyncio.Task[asyncio.Transport | None]] = {}
        """The oldest first. What is closed stays until there is no room."""
        self._accepting = asyncio.create_task(persistently("accepting", self._accept))

    async def close(self) -> None:
        """Let nobody in any more; who is still at the handshake goes. The others are their protocols' business."""
        self._accepting.cancel()
        await asyncio.wait([self._accepting])
        self._listener.close()
        shaking = {client: task for client, task in self._held.items() if not task.done()}
        for client in shaking:
            self._turn_out(client)
        if shaking:
            await asyncio.wait(shaking.values())
        for client in shaking:
            self._turn_out(client)  # what became of it meanwhile

    async def _accept(self) -> None:
        while True:
            await self._knock()
            await self._make_room()
            try:
                client, _ = self._listener.accept()
            except BlockingIOError:  # who knocked has gone
                continue
            except OSError:
                await asyncio.sleep(STARVED_S)
                continue
            client.setblocking(False)
            self._held[client] = asyncio.create_task(self._let_in(client))

    async def _knock(self) -> None:
        """Wait until there is somebody to accept. Not `sock_accept`: it loses a client when it is cancelled."""
        loop = asyncio.get_running_loop()
        knocked = asyncio.Event()
        loop.add_reader(self._listener, knocked.set)
        try:
            await knocked.wait()
        finally:
            loop.remove_reader(self._listener)

    async def _let_in(self, client: socket.socket) -> asyncio.Transport | None:
        tls = self.tls
        try:
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                self._connect, client, ssl=tls, ssl_handshake_timeout=None if tls is None else HANDSHAKE_S
            )
        except OSError:  # it went, does not speak TLS as we do, or took too long
            return None
        return transport

    async def _make_room(self) -> None:
        while len(self._held) >= MAX_CONNECTIONS:
            for client in [each for each, task in self._held.items() if each.fileno() < 0 and task.done()]:
                del self._held[client]
            if len(self._held) < MAX_CONNECTIONS:
                return
            self._turn_out(next(iter(self._held)))
            await asyncio.sleep(0)  # the loop closes it within a turn or two

    def _turn_out(self, client: socket.socket) -> None:
        """Begin to close a connection, whatever state it is in; again and again does no harm."""
        task = self._held[client]
        if not task.done():
            # Not `cancel`: a handshake that has just ended would be closed with all courtesy, and that takes time.
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        elif (transport := task.result()) is not None:
            transport.abort()  # closing would wait for a client that does not read
        else:
            client.close()
