"""Random credential material against a running gate, through raw sockets on all four fronts.

What is sent is a good credential, whole or spoiled, or nothing of the kind; whole it is shown in one of the ways that
there are, or in several, on paths that are opened to some kinds of keys. The oracle reads the header lines that were
sent and knows the secrets; of the code under test it has nothing.

    one credential, shown once, text for text as it was made  -+
    a path that is opened to its kind                          +--> 200, and nothing else gets that
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from random import Random
from typing import Final, NamedTuple

from tests import issuers
from tests.control.operators import done
from tests.gates import Gate, gate
from tests.servers import WITHIN_S

FRONTS: Final = ("nginx", "envoy", "forward", "api")
STATUSES: Final = {200, 400, 401, 403, 431}
"""What any front may answer here."""

DOCUMENT: Final = f"""
log: {{refusals_per_s: 10}}
credentials:
  mode: registry
  tokens: {{issuer: "{issuers.OURS}", audience: api, keys: [sign.pem]}}
  jwt:
    - {{name: idp, issuer: "{issuers.THEIRS}", audiences: [api], algorithms: [ES256], leeway: 0s,
       jwks: {{file: jwks.json}}}}
limits: [{{name: per-key, per: [key], permits: 1000000000, window: 1h}}]
filters:
  - {{name: web, match: {{paths: ["/shop/*"]}}, kinds: [client, server]}}
  - {{name: public, match: {{paths: ["/login"]}}, kinds: [anonymous, client, server]}}
  - {{name: apps, match: {{paths: ["/apps"]}}, kinds: [client]}}
  - {{name: closed, match: {{paths: ["/closed"]}}, deny: true}}
  - {{name: scoped, match: {{paths: ["/scoped"]}}, scopes: [nobody.has.it]}}
"""
OPENED: Final[Mapping[str, frozenset[str]]] = {
    "/mine": frozenset({"server"}),
    "/shop/1": frozenset({"client", "server"}),
    "/login": frozenset({"anonymous", "client", "server"}),
    "/apps": frozenset({"client"}),
    "/closed": frozenset(),
    "/scoped": frozenset(),
}
"""To whom each path is opened."""

API_KEY, APP_ID, APP_TOKEN = b"x-api-key", b"x-app-id", b"x-app-token"
CLIENT_ID, CLIENT_TOKEN, AUTHORIZATION = b"x-client-application-id", b"x-client-token", b"authorization"
SHOWING: Final = (API_KEY, APP_ID, APP_TOKEN, CLIENT_ID, CLIENT_TOKEN, AUTHORIZATION)

Line = tuple[bytes, bytes]
_ODD: Final = (
    b"", b".", b"..", b"\0", b"\x01", b"\x7f", b"\xff", b"\xc3\xa4", b" ", b"\t", b",", b", ", b";", b"=", b'"', b"'",
    b"%2e", b"%00", b"+", b"/", b"\\", b":", b"*", b"{}", b"null", b"Bearer ", b"pcs_", b"eyJ", b"A" * 48, b"9" * 400,
    b"[" * 3000, b"x" * 20_000, "\u2024".encode(), "\uff0e".encode(), b"../", b"$(id)", b"' or 1=1--",
)  # fmt: skip


class Held(NamedTuple):
    """The credentials of one run: id and secret of a server's and of a client's key, and a token."""

    server: tuple[bytes, bytes]
    client: tuple[bytes, bytes]
    token: bytes


# --- the oracle ---------------------------------------------------------------


def asker(lines: Sequence[Line], held: Held) -> str | None:
    """`anonymous`, `server` or `client`; None for whoever is not to be let in anywhere."""
    shown: dict[bytes, bytes] = {}
    for name, value in lines:
        if name.lower() in SHOWING:
            if name.lower() in shown:
                return None
            shown[name.lower()] = value.strip(b" \t")
    scheme, _, rest = shown.pop(AUTHORIZATION, b"").replace(b"\t", b" ").partition(b" ")
    ways = [shown.get(API_KEY, b"")]
    for pair in ((APP_ID, APP_TOKEN), (CLIENT_ID, CLIENT_TOKEN)):
        given = tuple(shown.get(name, b"") for name in pair)
        ways.append(b"\0".join((pair[0], *given)) if any(given) else b"")
    ways.append(b"bearer " + rest.strip(b" ") if scheme.lower() == b"bearer" else b"")
    shows = [way for way in ways if way]
    if not shows:
        return "anonymous"
    whole = b".".join(held.server)
    good = {
        whole: "server",
        b"bearer " + whole: "server",
        b"bearer " + held.token: "server",
        b"\0".join((APP_ID, *held.server)): "server",
        b"\0".join((CLIENT_ID, *held.client)): "client",
    }
    return good.get(shows[0]) if len(shows) == 1 else None


def readable(lines: Sequence[Line]) -> bool:
    """Whether it is HTTP, and no more of it than the check plane reads."""
    texts = [text for line in lines for text in line]
    return sum(map(len, texts)) < 60_000 and not any(
        re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", text) for text in texts
    )


# --- what is sent -------------------------------------------------------------


class Guesser:
    """Draws header lines. All that it knows of a good credential is `held`."""

    def __init__(self, dice: Random, held: Held, forge: Callable[[Random], bytes]) -> None:
        self._dice = dice
        self._held = held
        self._forge = forge

    def lines(self) -> list[Line]:
        dice = self._dice
        ways = [self._way() for _ in range(dice.choice((0, 1, 1, 1, 1, 1, 1, 2, 2, 3)))]
        lines = [line for way in ways for line in way]
        if dice.random() < 0.5 and lines:
            at = dice.randrange(len(lines))
            lines[at] = (lines[at][0], self._spoiled(lines[at][1]))
        if dice.random() < 0.1:
            lines.append((dice.choice(SHOWING), self._spoiled(b"")))
        if dice.random() < 0.1 and lines:
            del lines[dice.randrange(len(lines))]
        if dice.random() < 0.2:
            dice.shuffle(lines)
        return [(self._cased(name), value) for name, value in lines]

    def _way(self) -> list[Line]:
        dice, held = self._dice, self._held
        key_id, secret = dice.choice((held.server, held.server, held.client))
        match dice.randrange(6):
            case 0:
                return [(API_KEY, key_id + b"." + secret)]
            case 1:
                return [(APP_ID, key_id), (APP_TOKEN, secret)]
            case 2:
                return [(CLIENT_ID, key_id), (CLIENT_TOKEN, secret)]
            case 3:
                return [(AUTHORIZATION, self._scheme() + key_id + b"." + secret)]
            case 4:
                return [(AUTHORIZATION, self._scheme() + held.token)]
            case _:
                return [(AUTHORIZATION, self._scheme() + self._forge(dice))]

    def _scheme(self) -> bytes:
        return self._dice.choice(
            (b"Bearer ",) * 6 + (b"bearer ", b"BEARER  ", b"Bearer\t", b"Basic ", b"Bearer", b"")
        )

    def _cased(self, name: bytes) -> bytes:
        return self._dice.choice((name, name.title(), name.upper()))

    def _spoiled(self, value: bytes) -> bytes:
        """Another text, or by chance the same again: the oracle looks at what comes out."""
        dice = self._dice
        at = dice.randrange(len(value) + 1)
        match dice.randrange(10):
            case 0:
                return value[:at]
            case 1:
                return value[at:]
            case 2:
                return value[:at] + dice.choice(_ODD) + value[at:]
            case 3:
                return value[:at] + bytes([dice.randrange(256)]) + value[at + 1 :]
            case 4:
                return value.swapcase()
            case 5:
                return value + value
            case 6:
                return dice.choice(_ODD) * dice.randrange(3)
            case 7:
                return dice.randbytes(dice.randrange(80))
            case 8:
                # The last letter of base64 often has bits that mean nothing.
                return value[:-1] + bytes(
                    [dice.choice(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_=")]
                )
            case _:
                pieces = value.split(b".")
                dice.shuffle(pieces)
                return dice.choice((b".", b"..", b"")).join(pieces)


def forging(signer: issuers.Signer) -> Callable[[Random], bytes]:
    """Draws tokens that are signed with the issuer's own key, and yet none of which is good."""
    other = issuers.es256("another")
    odd: tuple[object, ...] = (
        None,
        True,
        -1,
        1e308,
        10**400,
        "",
        "api",
        [],
        ["api"],
        {},
        {"a": [1]},
        "x" * 4000,
        "\0",
    )
    names = (
        "iss",
        "sub",
        "aud",
        "exp",
        "nbf",
        "iat",
        "jti",
        "scope",
        "typ",
        "alg",
        "kid",
        "crit",
        "jku",
        "x5u",
        "b64",
    )

    def nested(dice: Random) -> bytes:
        depth = dice.choice((5, 50, 3000))
        return b'{"iss":' + b"[" * depth + b"]" * depth + b"}"

    def forge(dice: Random) -> bytes:
        now_s = int(time.time())
        claims: dict[str, object] = dict(issuers.claims(exp=now_s + 600))
        header: dict[str, object] = {}
        spoil = dice.randrange(6)
        for _ in range(dice.randrange(3)):
            claims[dice.choice(names)] = dice.choice(odd)
        if spoil == 0:
            claims["exp"] = dice.choice(
                (now_s - 1, 0, -1, "soon", 1e400, None, [now_s + 600], str(now_s + 600))
            )
        elif spoil == 1:
            claims["aud"] = dice.choice(("API", "another", ["another"], [["api"]], {"api": 1}, "", None, 7))
        elif spoil == 2:
            header = {
                "alg": dice.choice(
                    ("none", "None", "HS256", "RS256", "ES384", "ES512", "", None, 7, ["ES256"])
                )
            }
        elif spoil == 3:
            header = {
                dice.choice(names[8:]): dice.choice(odd),
                "kid": dice.choice(("../../etc/passwd", "x" * 5000, 7)),
            }
        elif spoil == 4:
            return signer.token(
                dice.choice((nested(dice), b"[]", b"null", b"{", b'{"exp":1,"exp":9e9}', b"\xff"))
            )
        else:
            return other.token(claims)
        return signer.token(claims, **header)

    return forge


def question(front: str, path: str, lines: Sequence[Line]) -> bytes:
    """What a proxy (or an application) asks about a request for `path` with these header lines."""
    given = b"".join(b"%b: %b\r\n" % line for line in lines)
    address, target = b"203.0.113.9", path.encode()
    match front:
        case "nginx":
            own = b"X-Real-IP: %b\r\nX-Original-Method: GET\r\nX-Original-URI: %b\r\n" % (address, target)
            return b"GET /auth/nginx HTTP/1.1\r\nHost: gate\r\n%b%b\r\n" % (own, given)
        case "envoy":
            return b"GET /auth/envoy%b HTTP/1.1\r\nHost: gate\r\nX-Real-IP: %b\r\n%b\r\n" % (
                target,
                address,
                given,
            )
        case "forward":
            own = b"X-Forwarded-For: %b\r\nX-Forwarded-Method: GET\r\nX-Forwarded-Uri: %b\r\n" % (
                address,
                target,
            )
            return b"GET /auth/forward HTTP/1.1\r\nHost: gate\r\n%b%b\r\n" % (own, given)
        case _:
            headers = {name.decode(): value.decode("latin-1") for name, value in lines}
            asked = {"address": address.decode(), "path": path, "headers": headers}
            body = json.dumps(asked).encode()
            return b"POST /v1/check HTTP/1.1\r\nHost: gate\r\nContent-Length: %d\r\n\r\n%b" % (
                len(body),
                body,
            )


# --- the run ------------------------------------------------------------------

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class Wire:
    """A connection to the gate, made again whenever the gate has closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connect()

    def close(self) -> None:
        self._socket.close()

    def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer. Raises ConnectionError where none comes on a new connection either."""
        for fresh in (False, True):
            if fresh:
                self._socket.close()
                self._connect()
            try:
                self._socket.sendall(request)
                if (answer := self._answer()) is not None:
                    return answer
            except (BrokenPipeError, ConnectionResetError):
                continue
        raise ConnectionError("no answer")

    def _connect(self) -> None:
        self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=WITHIN_S)
        self._data = b""

    def _answer(self) -> tuple[int, bytes] | None:
        while b"\r\n\r\n" not in self._data:
            if not (piece := self._socket.recv(65_536)):
                return None
            self._data += piece
        head, _, rest = self._data.partition(b"\r\n\r\n")
        length = _LENGTH.search(head + b"\r\n")
        size = int(length[1]) if length else 0
        while len(rest) < size:
            if not (piece := self._socket.recv(65_536)):
                return None
            rest += piece
        self._data = rest[size:]
        return int(head[9:12]), rest[:size]


class Guessed(NamedTuple):
    """How often each status was answered, and how many of the 200 were due to a credential."""

    statuses: Counter[int]
    proved: int


class Besieged:
    """A gate with one server's key, one client's key and a token, and those who guess."""

    def __init__(self, at: Gate, held: Held, signer: issuers.Signer) -> None:
        self.gate = at
        self._held = held
        self._forge = forging(signer)

    def guess(self, seed: int, guesses: int) -> Guessed:
        """Raises AssertionError, with the seed and what was sent, for an answer that is not due."""
        dice = Random(seed)
        guesser = Guesser(dice, self._held, self._forge)
        statuses: Counter[int] = Counter()
        proved = 0
        wire = Wire(self.gate.check_port)
        try:
            for number in range(guesses):
                front, path, lines = dice.choice(FRONTS), dice.choice(tuple(OPENED)), guesser.lines()
                if front == "api":  # an object has each name once
                    lines = list({name.lower(): (name, value) for name, value in lines}.values())
                elif any(b in value for _, value in lines for b in (b"\r", b"\n")):
                    continue  # another request altogether
                kind = asker(lines, self._held)
                due = kind in OPENED[path] if kind else False
                status, body = wire.ask(question(front, path, lines))
                if front == "api" and status == 200:
                    verdict = json.loads(body)
                    status = verdict["status"]
                    assert verdict["allowed"] is (status == 200)
                said = f"guess({seed}), number {number}: {front} {path} {lines} got {status}, {kind}"
                assert (status == 200) == due if readable(lines) else status != 200 or due, said
                assert status in STATUSES, said
                statuses[status] += 1
                proved += due and kind != "anonymous"
        finally:
            wire.close()
        return Guessed(statuses, proved)

    def complaints(self) -> list[str]:
        """What the log says of mistakes of the gate's own."""
        return [
            json.dumps(event) for event in self.gate.events() if event["event"] in {"log", "worker_restarted"}
        ]


@contextmanager
def besieged() -> Iterator[Besieged]:
    signer = issuers.es256()
    files = {
        "sign.pem": issuers.pem_of(issuers.ed25519_key()).decode(),
        "jwks.json": issuers.jwks(signer),
    }
    with gate(DOCUMENT, files=files) as running:
        server = done(running, "POST", "/v1/keys", {"id": "s-1", "label": "s", "kind": "server"})["secret"]
        client = {"id": "c-1", "label": "c", "kind": "client", "origins": ["*"]}
        secret = done(running, "POST", "/v1/keys", client)["secret"]
        token = signer.token(issuers.claims(exp=int(time.time()) + 86_400))
        held = Held((b"s-1", server.encode()), (b"c-1", secret.encode()), token)
        yield Besieged(running, held, signer)
