"""A tiny client of the admin API, for the command line: one request, one JSON answer.

It retries nothing and follows no redirects. When something goes wrong its words say what, whether anything
was changed, and what to do. Where the gate is and who asks is `commands.reach`'s business; what is asked, and
how an answer is shown, the commands'.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import SplitResult, urlencode, urlsplit

TIMEOUT_S: Final = 15.0
"""What an answer may take beyond the time that was asked for (`patience_s`): a store that hangs costs the gate ten
seconds until it says so."""
MOST_BYTES: Final = 16 << 20

_UNKNOWN_OUTCOME: Final = "whether the change was made is not known: look before you repeat it"
_REMEDIES: Final = {
    403: "ask with a token of that role: --token-file or PORTCULLIS_ADMIN_TOKEN",
    412: "nothing was changed: repeat it with the epoch of now{now}, or without --if-epoch",
    429: "wait a moment, then repeat it",
    503: "repeat it when the store answers again; `portcullis fleet` shows who reaches it",
    504: "look before you repeat it",
}
"""What to do about a status, where the gate's own words are only about what is wrong."""


class AdminFailed(Exception):
    """The gate could not be asked, or refused; the text says why and what to do.

    `status` is the gate's, None when there was no answer that could be understood.
    """

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status

    @property
    def passing(self) -> bool:
        """Whether asking again later may help: the gate was away, or could not reach its store."""
        return self.status is None or self.status in {429, 500, 502, 503, 504}


class Identity(NamedTuple):
    """For https: PEM files of the authority to trust (None: the system's), and of who asks."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


class AdminClient:
    """Asks one gate. `url` is `http://host:port`, `https://host:port` or `unix:/path/of/the.sock`.

    Raises ValueError for any other URL, and AdminFailed for files of `identity` that cannot be used.
    """

    def __init__(self, url: str, token: str | None, identity: Identity | None = None) -> None:
        self._parts = parse_url(url)
        self._url = url
        self._token = token
        self._has_certificate = identity is not None and identity.cert is not None
        self._tls = _tls(identity or Identity()) if self._parts.scheme == "https" else None

    def get(
        self, resource: str, query: Mapping[str, object] | None = None, *, patience_s: float = 0.0
    ) -> dict[str, Any]:
        """What the gate says of a resource. Raises AdminFailed."""
        return self.ask("GET", resource, query=query, patience_s=patience_s)

    def post(self, resource: str, document: Mapping[str, object]) -> dict[str, Any]:
        """What the gate answers to a document that changes nothing. Raises AdminFailed."""
        return self.ask("POST", resource, document=document, changes=False)

    def ask(
        self,
        method: str,
        resource: str,
        *,
        query: Mapping[str, object] | None = None,
        document: Mapping[str, object] | None = None,
        if_epoch: str | None = None,
        patience_s: float = 0.0,
        changes: bool | None = None,
    ) -> dict[str, Any]:
        """The gate's answer, an object. Members of `query` that are None are left out. Raises AdminFailed.

        patience_s  what the gate may take besides, because it was told to wait
        changes     whether a lost answer leaves open what happened; as a rule for all but GET
        """
        changes = method != "GET" if changes is None else changes
        given = {name: value for name, value in (query or {}).items() if value is not None}
        base = "" if self._parts.scheme == "unix" else self._parts.path.rstrip("/")
        target = f"{base}{resource}" + (f"?{urlencode(given)}" if given else "")
        headers = {} if self._token is None else {"Authorization": f"Bearer {self._token}"}
        if if_epoch is not None:
            headers["If-Match"] = f'"{if_epoch}"'
        body = None if document is None else json.dumps(document)
        if body is not None:
            headers["Content-Type"] = "application/json"
        status, answered = self._exchange(
            method, target, headers, body, timeout_s=TIMEOUT_S + patience_s, changes=changes
        )
        return self._understood(status, answered, changes=changes)

    def _exchange(
        self,
        method: str,
        target: str,
        headers: dict[str, str],
        body: str | None,
        *,
        timeout_s: float,
        changes: bool,
    ) -> tuple[int, bytes]:
        connection = self._connection(timeout_s)
        lost = f"; {_UNKNOWN_OUTCOME}" if changes else ""
        sent = ""  # what a lost answer leaves open, once the gate may have the request
        try:
            connection.connect()
            sent = lost
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            status, answered = response.status, response.read(MOST_BYTES)
            if response.length:  # cut off, or longer than any answer of ours
                raise http.client.IncompleteRead(answered, response.length)
        except TimeoutError as exc:
            raise AdminFailed(f"the gate at {self._url} did not answer within {timeout_s:g} s{sent}") from exc
        except ssl.SSLError as exc:
            raise AdminFailed(f"{self._about_tls(exc)}{sent}") from exc
        except OSError as exc:
            why = f"{exc.strerror or exc}{self._about_certificate}"
            raise AdminFailed(
                f"no gate answers at {self._url} ({why}): is it running? "
                f"--admin or PORTCULLIS_ADMIN_URL says where its admin plane listens{sent}"
            ) from exc
        except http.client.HTTPException as exc:
            raise AdminFailed(f"what answers at {self._url} is no gate: {type(exc).__name__}{sent}") from exc
        finally:
            connection.close()
        return status, answered

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        parts = self._parts
        if parts.scheme == "unix":
            return _UnixConnection(parts.path, timeout_s)
        assert parts.hostname is not None, "checked when made"
        if self._tls is not None:
            return http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=timeout_s, context=self._tls
            )
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)

    def _about_tls(self, error: ssl.SSLError) -> str:
        if isinstance(error, ssl.SSLCertVerificationError):
            return (
                f"the certificate of {self._url} is not trusted ({error.verify_message.rstrip('.')}): "
                "--ca or PORTCULLIS_ADMIN_CA names the authority that signed it"
            )
        if "WRONG_VERSION" in (error.reason or ""):
            return f"what answers at {self._url} is no gate, or speaks http:// there"
        if "CERTIFICATE" in (error.reason or ""):
            return (
                f"the gate at {self._url} wants a client certificate that it trusts ({error.reason}): "
                "--cert and --cert-key name it"
            )
        return f"no safe connection to {self._url} ({error.reason or error}{self._about_certificate})"

    @property
    def _about_certificate(self) -> str:
        """What may be missing: the gate's word for it is lost when the request crosses it on the way."""
        if self._tls is None or self._has_certificate:
            return ""
        return "; if it wants a client certificate, --cert and --cert-key name it"

    def _understood(self, status: int, body: bytes, *, changes: bool) -> dict[str, Any]:
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if status in {200, 201} and isinstance(answer, dict):
            return answer
        if status == 401:
            had = "the token is not that gate's" if self._token else "no token was found"
            raise AdminFailed(
                f"the gate at {self._url} wants its admin token, and {had}: set PORTCULLIS_ADMIN_TOKEN, name a "
                "file that holds it with --token-file, or name the gate's document with --config, "
                "whose state_dir holds it",
                status,
            )
        if not isinstance(answer, dict) or "detail" not in answer:
            unknown = f"; {_UNKNOWN_OUTCOME}" if changes and status < 400 else ""
            raise AdminFailed(
                f"what answers at {self._url} is no gate, or another version: status {status}{unknown}",
                status,
            )
        now = f", {answer['epoch']}" if "epoch" in answer else ""
        remedy = _REMEDIES.get(status, "").replace("{now}", now)
        if status == 504 and not changes:
            remedy = "ask again"
        detail = str(answer["detail"]).rstrip()
        if remedy and not detail.endswith((".", "?", "!")):
            detail += "."
        raise AdminFailed(f"refused ({status}): {detail}{_sentence(remedy)}", status)


def parse_url(url: str) -> SplitResult:
    """The parts of a gate's address. Raises ValueError for what is none."""
    parts = urlsplit(url)
    sound = parts.path if parts.scheme == "unix" else parts.scheme in {"http", "https"} and parts.hostname
    if not sound or parts.query or parts.fragment or parts.username is not None:
        shown = repr(url) if parts.username is None and "@" not in url else "what was given"
        raise ValueError(
            f"{shown} is no address of a gate: expected http://host:port, https://host:port or unix:/path"
        )
    _ = parts.port  # raises ValueError when it is none
    return parts


def _sentence(remedy: str) -> str:
    """
    >>> _sentence("ask again"), _sentence("")
    (' Ask again.', '')
    """
    return f" {remedy[0].upper()}{remedy[1:]}." if remedy else ""


def _tls(identity: Identity) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=identity.ca)
    except (OSError, ValueError) as exc:
        raise AdminFailed(f"{identity.ca}: cannot be used as the authority (--ca): {_why(exc)}") from exc
    if identity.cert is not None:
        try:
            context.load_cert_chain(identity.cert, identity.key)
        except (OSError, ValueError) as exc:
            files = " and ".join(str(path) for path in (identity.cert, identity.key) if path is not None)
            raise AdminFailed(
                f"{files}: cannot be used as the client certificate (--cert, --cert-key): {_why(exc)}"
            ) from exc
    return context


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"not PEM, or not a pair ({error.reason or error})"
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
