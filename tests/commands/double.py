"""A gate's admin plane as the command line meets it: an HTTP server with real state, in this process.

It keeps attack mode, addresses, keys, overrides and the audit trail, counts epochs, refuses wrong roles,
epochs and members, and gives pages. A test may tell it to fail (`broken`), and who of the fleet lags.

Unfaithful: it knows no store, time does not end entries, names are not checked, and secrets are not random.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from sidecar.core.addresses import parse_cidr

TOKENS: Final = {"a-viewer-s-token": "viewer", "an-operator-s-token": "operator", "an-admin-s-token": "admin"}
ROLES: Final = ("viewer", "operator", "admin")
AT: Final = "2026-11-22T05:00:00.123Z"
UNTIL: Final = "2026-11-22T06:00:00.123Z"
MOST: Final = 5_000


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class Asked(NamedTuple):
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: dict[str, Any]


class Double:
    """The state behind it, for tests to look at and to prepare.

    broken   called before each request; what it raises is answered, what it returns (bytes) is sent as it is
    lagging  members of `missing` in every confirmation
    page     how many entries a page has at most, whatever is asked for
    """

    def __init__(self) -> None:
        self.number = 57
        self.attack: dict[str, dict[str, Any]] = {}
        self.lists: dict[str, dict[str, dict[str, Any]]] = {
            n: {} for n in ("deny", "allow", "exempt", "pass")
        }
        self.configured: dict[str, list[str]] = {"deny": ["198.51.100.0/24"], "pass": ["192.0.2.0/24"]}
        self.keys: dict[str, dict[str, Any]] = {}
        self.overrides: dict[tuple[str, str], dict[str, Any]] = {}
        self.trail: list[dict[str, Any]] = []
        self.fleet: list[dict[str, Any]] = []
        self.top: dict[str, Any] = {}
        self.asked: list[Asked] = []
        self.lagging: list[dict[str, Any]] = []
        self.broken: Callable[[Asked], object] = lambda _: None
        self.page = 1000
        self._secrets = 0
        self._changed = threading.Condition()

    @property
    def epoch(self) -> str:
        return f"{self.number}-{self.number:016x}"

    @contextmanager
    def serving(self, tls: ssl.SSLContext | None = None) -> Iterator[str]:
        """Its URL while it serves."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        server.daemon_threads = True
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def did(self, actor: str, action: str, reason: str = "", **detail: object) -> None:
        """Enter something into the audit trail, and wake who waits for it."""
        with self._changed:
            entry: dict[str, object] = {
                "id": f"{len(self.trail) + 1}-0",
                "at": AT,
                "actor": actor,
                "action": action,
            }
            entry |= {"outcome": "done", "epoch": self.epoch, "reason": reason, "until": None}
            self.trail.append({**entry, **detail})
            self._changed.notify_all()

    def answer(self, asked: Asked, role: str) -> tuple[int, dict[str, Any]]:
        """Status and document. Raises Refused."""
        match asked.method, *asked.path.removeprefix("/v1/").split("/"):
            case "GET", "attack":
                return 200, self._attack(asked.query)
            case "PUT", "attack":
                return self._change(asked, role, "operator", self._switch)
            case "GET", "addresses", name if name in self.lists:
                return 200, self._page(asked, "entries", self._listed(name)) | {"list": name}
            case "POST", "addresses", name if name in self.lists:
                return self._change(asked, role, "operator", lambda body: self._relist(name, body))
            case "GET", "keys":
                tenant = asked.query.get("tenant")
                found = [key for key in self.keys.values() if tenant in {None, key["tenant"]}]
                return 200, self._page(asked, "keys", found) | {"unreadable": []}
            case "POST", "keys":
                return 201, self._change(asked, role, "admin", self._create)[1]
            case "GET", "keys", key_id:
                return 200, self._key(key_id)
            case "PATCH", "keys", key_id:
                return self._change(asked, role, "admin", lambda body: self._update(key_id, body))
            case "DELETE", "keys", key_id:
                return self._change(asked, role, "admin", lambda _: self._delete(key_id))
            case "POST", "keys", key_id, "rotate":
                return self._change(asked, role, "admin", lambda body: self._rotate(key_id, body))
            case "GET", "overrides":
                return 200, self._page(asked, "overrides", list(self.overrides.values()))
            case "PUT", "overrides":
                return self._change(asked, role, "operator", self._override)
            case "POST", "overrides", "unset":
                return self._change(asked, role, "operator", self._unset)
            case "POST", "reset":
                return self._change(
                    asked, role, "operator", lambda body: {**_only(body, *_RESET), "counters": 3}
                )
            case "GET", "fleet":
                configurations = len({one["config"] for one in self.fleet})
                return 200, {"epoch": self.epoch, "replicas": self.fleet, "configurations": configurations}
            case "GET", "top":
                return 200, self.top
            case "GET", "audit":
                return 200, self._audit(asked.query)
        raise Refused(404, "There is nothing here.")

    def _change(
        self, asked: Asked, role: str, needed: str, change: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> tuple[int, dict[str, Any]]:
        if ROLES.index(role) < ROLES.index(needed):
            raise Refused(403, f'This needs a token with the role {needed}; "it" is a {role}.')
        if asked.headers.get("If-Match") not in {None, f'"{self.epoch}"'}:
            raise Refused(412, f"Another epoch is current: {self.epoch}.")
        own = change(dict(asked.body))
        self.number += 1
        self.did(role, asked.path, str(asked.body.get("reason", "")))
        confirmed = None
        if "wait" in asked.query:
            confirmed = {"everywhere": not self.lagging, "replicas": 8, "missing": self.lagging}
        until = UNTIL if "for" in asked.body else None
        return 200, {"epoch": self.epoch, "at": AT, "until": until, "confirmed": confirmed, **own}

    def _page(self, asked: Asked, member: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
        begin = int(asked.query.get("cursor", "0"))
        end = begin + min(int(asked.query.get("limit", "100")), self.page)
        return {
            "epoch": self.epoch,
            member: entries[begin:end],
            "cursor": str(end) if end < len(entries) else None,
        }

    # --- attack mode, addresses ---------------------------------------------------

    def _attack(self, query: Mapping[str, str]) -> dict[str, Any]:
        subjects = [entry for name, entry in self.attack.items() if name != "global"]
        subjects = [entry for entry in subjects if query.items() <= entry.items()]
        said = self.attack.get("global")
        return {
            "epoch": self.epoch,
            "on": said is not None and said["on"],
            "known": said is not None,
            "global": said,
            "subjects": subjects[: self.page],
            "more": len(subjects) > self.page,
            "pass": {"configuration": self.configured["pass"], "run_time": len(self.lists["pass"])},
        }

    def _switch(self, body: dict[str, Any]) -> dict[str, Any]:
        _known(body, "on", "reason", "for", "tenant", "key")
        subject = _only(body, "tenant", "key")
        name = str(subject) if subject else "global"
        self.attack[name] = {"on": body["on"], **_said(body), **subject}
        if subject and not body["on"]:
            del self.attack[name]
        return {"on": body["on"], **subject}

    def _listed(self, name: str) -> list[dict[str, Any]]:
        nothing = {"reason": "", "actor": "", "at": None, "until": None}
        configured = [
            {"cidr": c, "source": "configuration", **nothing} for c in self.configured.get(name, [])
        ]
        return configured + [{"cidr": c, "source": "run_time", **e} for c, e in self.lists[name].items()]

    def _relist(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        _known(body, "add", "remove", "reason", "for")
        add, remove = body.get("add", []), body.get("remove", [])
        if not 0 < len(add) + len(remove) <= MOST:
            raise Refused(400, f"add: 1 to {MOST} networks at once.")
        entries = self.lists[name]
        before = len(entries)
        entries.update({parse_cidr(cidr): _said(body) for cidr in add})
        added = len(entries) - before
        removed = sum(entries.pop(parse_cidr(cidr), None) is not None for cidr in remove)
        return {"list": name, "added": added, "removed": removed}

    # --- keys ----------------------------------------------------------------------

    def _secret(self) -> str:
        self._secrets += 1
        return f"pcs_{self._secrets:048d}"

    def _key(self, key_id: str) -> dict[str, Any]:
        if key_id not in self.keys:
            raise Refused(404, f"There is no key {key_id}.")
        return self.keys[key_id]

    def _create(self, body: dict[str, Any]) -> dict[str, Any]:
        _known(body, "label", "kind", "id", *_TERMS)
        key_id = body.pop("id", f"k_{len(self.keys)}")
        if key_id in self.keys:
            raise Refused(409, f"There is a key {key_id} already.")
        made = {"created": AT, "changed": AT, "secrets": [{"created": AT, "until": None}]}
        self.keys[key_id] = {"id": key_id, "enabled": True, **body, **made}
        return {"key": self.keys[key_id], "id": key_id, "secret": self._secret()}

    def _update(self, key_id: str, body: dict[str, Any]) -> dict[str, Any]:
        _known(body, "label", "enabled", *_TERMS)
        self._key(key_id).update(body)
        return {"key": self.keys[key_id]}

    def _delete(self, key_id: str) -> dict[str, Any]:
        self._key(key_id)
        del self.keys[key_id]
        return {"id": key_id}

    def _rotate(self, key_id: str, body: dict[str, Any]) -> dict[str, Any]:
        _known(body, "grace")
        key = self._key(key_id)
        newest = {"created": AT, "until": None}
        key["secrets"] = [newest, key["secrets"][0] | {"until": UNTIL}]
        return {"key": key, "id": key_id, "secret": self._secret()}

    # --- overrides, audit ------------------------------------------------------------

    def _override(self, body: dict[str, Any]) -> dict[str, Any]:
        _known(body, "limit", "permits", "reason", "for", "key", "tenant", "address")
        subject = _only(body, "key", "tenant", "address")
        told = {"limit": body["limit"], **subject, "permits": body["permits"]}
        self.overrides[body["limit"], str(subject)] = {**told, **_said(body)}
        return told

    def _unset(self, body: dict[str, Any]) -> dict[str, Any]:
        subject = _only(body, "key", "tenant", "address")
        if self.overrides.pop((body["limit"], str(subject)), None) is None:
            raise Refused(404, "There is no such override.")
        return {"limit": body["limit"], **subject}

    def _audit(self, query: dict[str, str]) -> dict[str, Any]:
        limit = int(query.get("limit", "100"))
        if "after" not in query:
            found = self.trail[-limit:]
        else:
            number = int(query["after"].partition("-")[0])
            with self._changed:
                self._changed.wait_for(
                    lambda: len(self.trail) > number, min(float(query.get("wait", "0")), 0.2)
                )
            found = self.trail[number : number + limit]
        return {"entries": found, "after": found[-1]["id"] if found else query.get("after")}


_TERMS: Final = ("tenant", "plan", "scopes", "cidrs", "origins", "expires")
_RESET: Final = ("limit", "key", "tenant", "address")


def _known(body: dict[str, Any], *names: str) -> None:
    if unknown := body.keys() - set(names):
        raise Refused(400, f"{', '.join(sorted(unknown))}: not known here.")


def _only(body: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: body[name] for name in names if name in body}


def _said(body: dict[str, Any]) -> dict[str, Any]:
    return {
        "reason": body.get("reason", ""),
        "actor": "alice",
        "at": AT,
        "until": UNTIL if "for" in body else None,
    }


def _handler(double: Double) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length", "0"))
            parts = urlsplit(self.path)
            body = json.loads(self.rfile.read(length)) if length else {}
            query = dict(parse_qsl(parts.query))
            asked = Asked(self.command, parts.path, query, dict(self.headers.items()), body)
            double.asked.append(asked)
            try:
                raw = double.broken(asked)
                if isinstance(raw, bytes):
                    self.wfile.write(raw)
                    self.close_connection = True
                    return
                role = TOKENS.get(self.headers.get("Authorization", "").removeprefix("Bearer "))
                if role is None:
                    raise Refused(401, "This needs the admin token.")
                status, document = double.answer(asked, role)
            except Refused as refused:
                status, document = refused.status, {"status": refused.status, "detail": refused.detail}
            self.send_response(status)
            sent = json.dumps(document).encode()
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def __getattr__(self, name: str) -> object:
            if name.startswith("do_"):  # the server looks for a method of this name, whatever the request's
                return self._answer
            raise AttributeError(name)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
