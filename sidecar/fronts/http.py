"""The check plane's connections: HTTP/1.1 with keep-alive and pipelining on `asyncio.Protocol`.

    data_received ─ at rest ─ HeadTable knows these bytes ──┬──────> check ─> write ──> transport
                  │         └ one simple head ─> front.read ┘            └ None: a Slot waits
                  └ MessageReader ─────────────> front.read ───────> check ─> write ──> Slots, in order ──> transport

Cost: one clock reading for all that arrived together, one for each verdict; no task, future or timer for a
request that needs no store. One sweep a second looks after all connections (`plane`): idle ones are closed, a
request that takes longer than `head_s` to arrive gets 408, a client that does not take its answers is cut off.

Bounds of one connection: what `wire` holds; `max_waiting` answers owed, plus those of one PIECE; one read of the
transport. Beyond that the gate stops reading. A connection above `max_connections` is closed at once: to its proxy the
gate cannot be reached, which is the truth; an answer before the question would often be lost.

What cannot be read is answered and ends the connection. On a front's path the answer has that front's form, so that
nginx does not make a 500 of it, and `observe` hears of it; elsewhere it is a problem document.

It decides nothing, opens no socket, and does not know what a rule is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import cast

from sidecar.core.model import Request, Verdict
from sidecar.fronts import Front, Head, Unreadable, answers
from sidecar.fronts.plane import CheckPlane
from sidecar.fronts.wire import PIECE, MessageReader, Refusal


class Slot:
    """One answer owed by a connection, in the order of the requests; the Waiter that the gate answers."""

    front: Front
    request: Request
    raw: bytes | None = None
    """An answer that needs no verdict."""
    request_id = b""
    started_s = 0.0
    keep_alive = True
    verdict: Verdict | None = None

    def __init__(self, connection: CheckProtocol | None, raw: bytes | None = None) -> None:
        self.connection = connection
        if raw is not None:
            self.raw = raw

    def answer(self, verdict: Verdict) -> None:
        """The gate's verdict. Does nothing when the client has gone."""
        if self.connection is not None and self.verdict is None:
            self.connection.answered(self, verdict)

    def written(self) -> bytes | None:
        """The answer's bytes, or None while it waits."""
        if self.raw is not None:
            return self.raw
        if self.verdict is None:
            return None
        return self.front.write(self.request, self.verdict, self.request_id, self.keep_alive)


class CheckProtocol(asyncio.Protocol):
    """One connection of the check plane."""

    __slots__ = (
        "_at_rest",
        "_backlog",
        "_begun_s",
        "_closing",
        "_deadline_s",
        "_held",
        "_out",
        "_plane",
        "_reader",
        "_seen_s",
        "_slots",
        "_spare",
        "_stalled_s",
        "_transport",
    )

    _transport: asyncio.Transport

    def __init__(self, plane: CheckPlane) -> None:
        self._plane = plane
        self._reader = MessageReader(plane.limits)
        self._slots: deque[Slot] = deque()
        self._spare = Slot(self)
        """Given to the gate with each request, and replaced when the gate keeps it."""
        self._out: list[bytes] = []
        self._backlog = b""
        """Received, but not read yet: only while reading is held."""
        self._at_rest = False
        """Between requests, nothing owed, nothing held: the same bytes mean the same request."""
        self._held = False
        self._closing = False
        """Nothing more is read; when the last answer owed is written, the connection ends."""
        self._seen_s = 0.0
        self._begun_s = 0.0
        self._stalled_s: float | None = None
        """Since when the client has not taken its answers."""
        self._deadline_s: float | None = None
        """When the connection, closed from our side, is cut off."""

    # --- what asyncio calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        plane = self._plane
        self._transport = cast(asyncio.Transport, transport)
        if len(plane.connections) >= plane.limits.max_connections:
            plane.turned_away += 1
            self._closing = True
            self._transport.abort()
            return
        plane.connections.add(self)
        self._seen_s = plane.clock()
        self._at_rest = not plane.draining

    def data_received(self, data: bytes) -> None:
        plane = self._plane
        now_s = plane.clock()
        if not self._at_rest or len(data) > PIECE:
            self._receive(data, now_s)
            return
        known = plane.heads.find(data) or self._lone_question(data)
        if known is None:
            self._receive(data, now_s)
            return
        # From here on as short as can be: this is what most requests cost.
        front, request = known
        self._seen_s = now_s
        verdict = plane.check(request, self._spare)
        if verdict is None:
            self._at_rest = False
            self._wait(front, request, True, now_s)
            return
        request_id = request.request_id or plane.new_id()
        self._transport.write(front.write(request, verdict, request_id, True))
        plane.observe(front.index, request, verdict, request_id, plane.clock() - now_s)

    def eof_received(self) -> bool:
        """The client sends no more. Keep the connection while answers are owed to it."""
        if self._slots and self._deadline_s is None:
            self._at_rest = False
            self._closing = True
            self._slots[-1].keep_alive = False
            return True
        self._set_deadline()
        return False

    def pause_writing(self) -> None:
        self._stalled_s = self._plane.clock()
        self._hold()

    def resume_writing(self) -> None:
        self._stalled_s = None
        self._resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self._plane.connections.discard(self)
        self._at_rest = False
        self._closing = True
        self._backlog = b""
        self._spare.connection = None
        for slot in self._slots:
            slot.connection = None
        self._slots.clear()
        self._out.clear()

    # --- what the plane calls ---

    def inspect(self, now_s: float) -> None:
        limits = self._plane.limits
        if self._deadline_s is not None:
            if now_s >= self._deadline_s:
                self._transport.abort()
        elif self._stalled_s is not None:
            if now_s - self._stalled_s >= limits.head_s:
                self._transport.abort()
        elif self._slots:
            pass  # the gate's own deadline bounds these
        elif self._reader.mid:
            if now_s - self._begun_s >= limits.head_s:
                self._refuse(Refusal(408, "the request took too long to arrive"), now_s)
                self._flush()
        elif now_s - self._seen_s >= limits.idle_s:
            self._close()

    def last_call(self) -> None:
        self._at_rest = False  # what comes now is read with the plane's `draining` in mind

    def drain(self) -> None:
        self._at_rest = False
        if self._closing or self._reader.mid or self._backlog:
            return  # its next answer is the last one: see `_ask`
        if self._slots:
            self._closing = True
            self._slots[-1].keep_alive = False
        else:
            self._close()

    def abort(self) -> None:
        self._transport.abort()

    # --- requests in ---

    def _lone_question(self, data: bytes) -> tuple[Front, Request] | None:
        """What a front makes of `data`, if that is exactly one question, to be followed by others."""
        plane = self._plane
        head = plane.read_alone(data)
        if head is None:
            return None
        front = plane.front_of(head.target)
        if front is None:
            return None
        try:
            request = front.read(head)
        except Unreadable:
            return None
        plane.heads.offer(data, head, front, request)
        return front, request

    def _receive(self, data: bytes, now_s: float) -> None:
        """Read what arrived, piece by piece, as long as nothing stands against it."""
        if self._closing:
            return
        if self._held:
            self._backlog += data
            return
        self._at_rest = False
        for start in range(0, len(data), PIECE):
            self._read(data[start : start + PIECE], now_s)
            self._flush()
            if not self._reads_on():
                self._backlog = data[start + PIECE :]
                return
        self._settle()

    def _read(self, piece: bytes, now_s: float) -> None:
        """Put to the gate what the reader makes of `piece`, and answer what it refuses."""
        reader = self._reader
        begins = not reader.mid
        reader.feed(piece)
        heads = reader.messages
        if heads:
            self._seen_s = now_s
            begins = True
            for head in heads:
                self._ask(head, now_s)
                if self._closing:
                    return  # what follows `Connection: close` is nobody's request
            heads.clear()
        if reader.refusal is not None:
            self._refuse(reader.refusal, now_s)
        elif reader.mid:
            if begins:
                self._begun_s = now_s
            if reader.continues:
                reader.continues = False
                self._put_raw(answers.CONTINUE)

    def _ask(self, head: Head, now_s: float) -> None:
        """Put one request to the gate."""
        plane = self._plane
        keep_alive = head.keep_alive and not plane.draining
        bodiless = head.method == b"HEAD"
        front = plane.front_of(head.target)
        if front is None:
            self._put_raw(
                answers.plain_problem(
                    404, "not_found", "no front is here", plane.new_id(), keep_alive, bodiless=bodiless
                )
            )
        else:
            try:
                request = front.read(head)
            except Unreadable as unreadable:
                request, verdict = answers.unread(
                    unreadable.status, unreadable.detail, methods=unreadable.methods, bodiless=bodiless
                )
                self._put_unread(front, request, verdict, keep_alive, now_s)
            else:
                answer = plane.check(request, self._spare)
                if answer is None:
                    self._wait(front, request, keep_alive, now_s)
                else:
                    self._put(front, request, answer, keep_alive, now_s)
        if not keep_alive:
            self._closing = True

    def _refuse(self, refusal: Refusal, now_s: float) -> None:
        """Answer what could not be read, and read no more."""
        plane = self._plane
        reader = self._reader
        front = plane.front_of(reader.target)
        if front is None:
            code = "method" if refusal.status == 405 else "malformed"
            self._put_raw(answers.plain_problem(refusal.status, code, refusal.detail, plane.new_id(), False))
        else:
            request, verdict = answers.unread(
                refusal.status, refusal.detail, methods=answers.METHODS, bodiless=reader.bodiless
            )
            self._put_unread(front, request, verdict, False, now_s)
        self._closing = True

    def _reads_on(self) -> bool:
        """Whether the next piece may be read now."""
        if len(self._slots) >= self._plane.limits.max_waiting:
            self._hold()
        return not (self._held or self._closing)

    def _hold(self) -> None:
        self._at_rest = False
        if not self._held and not self._transport.is_closing():
            self._held = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        """Read again, first what was received already, if nothing stands against it any more."""
        if (
            not self._held
            or self._closing
            or self._stalled_s is not None
            or len(self._slots) >= self._plane.limits.max_waiting
            or self._transport.is_closing()
        ):
            return
        self._held = False
        self._transport.resume_reading()
        backlog, self._backlog = self._backlog, b""
        now_s = self._begun_s = self._plane.clock()
        self._receive(backlog, now_s)

    def _settle(self) -> None:
        self._at_rest = not (
            self._slots or self._reader.mid or self._held or self._closing or self._plane.draining
        )

    # --- answers out ---

    def answered(self, slot: Slot, verdict: Verdict) -> None:
        """The gate has answered one that waited."""
        plane = self._plane
        slot.verdict = verdict
        slot.request_id = slot.request.request_id or plane.new_id()
        plane.observe(
            slot.front.index, slot.request, verdict, slot.request_id, plane.clock() - slot.started_s
        )
        slots = self._slots
        if slots[0] is not slot:
            return
        while slots and (written := slots[0].written()) is not None:
            self._out.append(written)
            slots.popleft()
        self._flush()
        if self._held:
            plane.soon(self._resume)
        else:
            self._settle()

    def _wait(self, front: Front, request: Request, keep_alive: bool, started_s: float) -> None:
        slot = self._spare
        slot.front = front
        slot.request = request
        slot.started_s = started_s
        if not keep_alive:
            slot.keep_alive = False
        self._slots.append(slot)
        self._spare = Slot(self)

    def _put(self, front: Front, request: Request, verdict: Verdict, keep_alive: bool, now_s: float) -> None:
        plane = self._plane
        request_id = request.request_id or plane.new_id()
        if self._slots:
            slot = Slot(self)
            slot.front = front
            slot.request = request
            slot.request_id = request_id
            slot.verdict = verdict
            slot.keep_alive = keep_alive
            self._slots.append(slot)
        else:
            self._out.append(front.write(request, verdict, request_id, keep_alive))
        plane.observe(front.index, request, verdict, request_id, plane.clock() - now_s)

    def _put_unread(
        self, front: Front, request: Request, verdict: Verdict, keep_alive: bool, now_s: float
    ) -> None:
        plane = self._plane
        request_id = plane.new_id()
        self._put_raw(front.refuse(request, verdict, request_id, keep_alive))
        plane.observe(front.index, request, verdict, request_id, plane.clock() - now_s)

    def _put_raw(self, answer: bytes) -> None:
        if self._slots:
            self._slots.append(Slot(self, answer))
        else:
            self._out.append(answer)

    def _flush(self) -> None:
        out = self._out
        if out:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))
            out.clear()
        if self._closing and not self._slots:
            self._end()

    def _end(self) -> None:
        """All is answered. Send our FIN and wait a moment for theirs: closing with bytes of theirs unread
        would send a reset, which can destroy the last answer on its way."""
        if self._deadline_s is not None or self._transport.is_closing():
            return
        self._set_deadline()
        if self._held:
            self._held = False
            self._transport.resume_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def _close(self) -> None:
        self._closing = True
        self._at_rest = False
        self._set_deadline()
        self._transport.close()

    def _set_deadline(self) -> None:
        if self._deadline_s is None:
            self._deadline_s = self._plane.clock() + self._plane.limits.linger_s
