"""The gate's verdict about a request to the public plane, asked for at its own check plane (`POST /v1/check`).

    caller + credential --> question --> check plane --> verdict --> the id of the key, or a Refusal

So whatever holds for requests holds here: limits and their counters, the limits of failed credentials, address
lists, filters, attack mode, the networks of keys, outages. The credential goes as the two headers of a server
key, and who it proved is the gate's word: a client is authenticated when the gate's answer names the key, and
not because it was let in, as everybody may be where a filter opens the path.

Nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Protocol

import aiohttp
import msgspec
import orjson

from sidecar.config import Credentials, Endpoint, TcpEndpoint
from sidecar.core.model import Reason
from sidecar.public.reading import Caller, Credential
from sidecar.public.refusals import Error, NotAuthenticated, Refusal, unavailable, unreadable

ASK_S: Final = 5.0
MOST_QUESTION: Final = 64 * 1024
"""Bytes that the check plane takes."""
LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}
TOLD: Final = frozenset(
    {"x-request-id", "ratelimit", "ratelimit-policy"}
    | {f"x-ratelimit-{name}" for name in ("limit", "remaining", "reset")}
)
"""Headers of the gate's answer that are the client's to know."""
IDENTITY: Final = "X-Portcullis-Key"

_AUTHENTICATION: Final = frozenset({"authorization", "proxy-authorization", "cookie"})
"""Headers that are not asked about: they hold secrets, ours or others'."""


class Told(NamedTuple):
    """The gate's verdict.

    key_id   whose the credential is; "" unless it was proved and let in
    headers  what the client may know besides
    """

    reason: Reason
    status: int
    retry_after_s: int
    key_id: str
    headers: Mapping[str, str]


class _Verdict(msgspec.Struct, frozen=True):
    """What of the check plane's answer matters here."""

    status: int
    reason: str
    retry_after_s: int | None = None


class Judge(Protocol):
    """Who answers questions as the check plane does."""

    async def ask(self, question: bytes, request_id: str) -> Told:
        """Raises Refusal when there is no answer."""


class CheckPlane:
    """The check plane of this gate, over its own listener."""

    def __init__(self, endpoint: Endpoint) -> None:
        if isinstance(endpoint, TcpEndpoint):
            host = LOOPBACK.get(endpoint.host, endpoint.host)
            self._url = f"http://{TcpEndpoint(host, endpoint.port)}/v1/check"
            # A connection for each question: one that was kept could be closed while it is asked.
            connector: aiohttp.BaseConnector = aiohttp.TCPConnector(force_close=True)
        else:
            self._url = "http://gate/v1/check"
            connector = aiohttp.UnixConnector(str(endpoint.path), force_close=True)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=ASK_S),
            trust_env=False,  # no proxy between the gate and itself
        )

    async def ask(self, question: bytes, request_id: str) -> Told:
        headers = {"Content-Type": "application/json"}
        if request_id:
            headers["X-Request-Id"] = request_id
        try:
            async with self._session.post(self._url, data=question, headers=headers) as response:
                body = await response.read()
                if response.status != 200:
                    raise unreadable("The gate cannot judge this request: its headers are malformed.")
                told = {name: value for name, value in response.headers.items() if name.lower() in TOLD}
                key_id = response.headers.get(IDENTITY, "")
        except (aiohttp.ClientError, TimeoutError, OSError):
            raise unavailable("The gate does not answer.") from None
        verdict = _DECODER.decode(body)
        return Told(_REASONS[verdict.reason], verdict.status, verdict.retry_after_s or 0, key_id, told)

    async def close(self) -> None:
        await self._session.close()


_DECODER: Final = msgspec.json.Decoder(_Verdict)
_REASONS: Final = {reason.code: reason for reason in Reason}


class Judging:
    """Puts requests to the judge. `credentials` are those of the configuration in force."""

    def __init__(self, judge: Judge, credentials: Callable[[], Credentials]) -> None:
        self._judge = judge
        self._credentials = credentials

    async def told(self, caller: Caller, credential: Credential | None) -> Told:
        """What the gate says of this request. Raises Refusal when it cannot be asked."""
        question = question_of(caller, credential, self._credentials())
        if len(question) > MOST_QUESTION:
            raise unreadable("The headers are too long.", status=431)
        return await self._judge.ask(question, caller.request_id)


def question_of(caller: Caller, credential: Credential | None, names: Credentials) -> bytes:
    """The question as the check plane reads it. Nothing in it but `credential` is one."""
    carrying = {name.decode() for name in (*names.headers, *names.server, *names.client)} | _AUTHENTICATION
    headers = {name: value for name, value in caller.headers.items() if name not in carrying}
    if credential is not None:
        headers[names.server.id.decode()] = credential.id
        headers[names.server.secret.decode()] = credential.secret
    return orjson.dumps(
        {
            "address": caller.address,
            "method": caller.method,
            "host": caller.host.encode("utf-8", "replace").decode(),
            "path": caller.path,
            "headers": headers,
        }
    )


def admitted(told: Told, credential: Credential | None) -> str:
    """The id of the key that was proved and let in. Raises Refusal.

    What only the holder of the right secret is told of a key (that it is disabled, not meant for this network
    or for browsers) comes after the secret was proved.
    """
    if not told.reason.allowed:
        raise refusal_of(told)
    if credential is None or not told.key_id or told.key_id != credential.id:
        raise NotAuthenticated
    return told.key_id


def let_by(told: Told) -> None:
    """Raises Refusal, but not for the credential that what everybody may know does not need.

    So address lists, filters on the request and attack mode hold. Limits do not: the gate charges nobody who lacks
    a credential, unless a filter opens the path to anonymous requests.
    """
    if not told.reason.allowed and told.reason is not Reason.CREDENTIAL_MISSING:
        raise refusal_of(told)


def refusal_of(told: Told) -> Refusal:
    """A refusal of the gate in the words of OAuth."""
    match told.reason:
        case Reason.CREDENTIAL_MISSING | Reason.CREDENTIAL_INVALID:
            return NotAuthenticated()
        case Reason.CREDENTIAL_DISABLED | Reason.CREDENTIAL_ADDRESS | Reason.KIND:
            return Refusal(Error.UNAUTHORIZED_CLIENT, "This key may not do this, or not from here.")
        case Reason.MALFORMED | Reason.CREDENTIAL_IN_QUERY:
            return unreadable("The request is malformed.")
        case Reason.RATE_LIMITED:
            return unavailable("Too many requests.", status=429, retry_after_s=told.retry_after_s)
        case Reason.ATTACK_MODE | Reason.STORE_UNAVAILABLE:
            return unavailable(
                "The gate lets nobody in now.", status=told.status, retry_after_s=told.retry_after_s
            )
    return Refusal(Error.ACCESS_DENIED, "The gate does not let this request pass.", status=403)
