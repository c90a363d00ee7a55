"""After all that the tables ask, nothing that is kept, told or shown holds a secret or a token that was used.

The search and the listening are those of `tests.control.test_secrets_live`; the day is the tables', through all three
proxies, and what operators look at meanwhile.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path

from tests.certificates import Certificates
from tests.control.operators import ask, command
from tests.control.test_secrets_live import Overheard, in_store, written_as
from tests.credentials.cases import TABLES, key
from tests.credentials.sites import Site, sites
from tests.servers import eventually

SHOWN = (
    "/metrics",
    "/readyz",
    "/v1/audit?limit=1000",
    "/v1/keys?limit=1000",
    "/v1/keys/shop",
    "/v1/attack",
    "/v1/fleet",
    "/v1/top",
    "/v1/overrides",
    "/v1/addresses/deny",
)


class Heard(Overheard):
    """Every command that reaches the store; command lines are the other test's."""

    def _look(self) -> None:
        return


def every_case(site: Site) -> None:
    """Ask all that the tables ask; what is answered is judged elsewhere."""
    texts = {**site.known.secrets, **site.known.tokens}
    for case in (case for table in TABLES.values() for case in table):
        target = re.sub(r"\{([a-z-]+)\}", lambda found: texts[found[1]], case.target)
        site.ask(target, method=case.method, headers=case.headers, body=case.body, address=case.address)
    for name, text in texts.items():
        for headers in (key("shop", name), {"X-App-Id": text, "X-App-Token": "shop"}):
            site.ask("/mine", headers=headers)


def operators_look(site: Site) -> dict[str, bytes]:
    """What the admin plane and the commands show, `explain` of secrets included."""
    texts = {**site.known.secrets, **site.known.tokens}
    shown = {path: site.gate.admin(path).body for path in SHOWN}
    for name, text in texts.items():
        asked = {
            "address": "203.0.113.9",
            "path": f"/mine?api_key={text}",
            "headers": {"X-Api-Key": f"shop.{text}"},
        }
        shown[f"explain {name}"] = json.dumps(ask(site.gate, "POST", "/v1/explain", asked)).encode()
        bearer = {**asked, "path": "/mine", "headers": {"Authorization": f"Bearer {text}"}}
        shown[f"explain {name} as bearer"] = json.dumps(
            ask(site.gate, "POST", "/v1/explain", bearer)
        ).encode()
        shown[f"explain key {name}"] = json.dumps(
            ask(site.gate, "POST", "/v1/explain", {"address": "203.0.113.9", "key": text[:64]})
        ).encode()
    for words in (("key", "list"), ("key", "show", "shop"), ("audit",), ("top",), ("key", "export")):
        ran = command(site.gate, *words)
        shown[f"portcullis {' '.join(words)}"] = (ran.out + ran.err).encode()
    return shown


def files_of(directory: Path) -> dict[str, bytes]:
    found = {}
    for path in directory.rglob("*"):
        with suppress(OSError):  # a socket, or gone
            found[str(path)] = path.read_bytes()
    return found


def test_it_keeps_and_shows_no_secret_and_no_token(certificates: Certificates, directory: Path) -> None:
    with sites(certificates, state_dir=directory / "state") as built:
        nginx = built["nginx"]
        overheard = Heard(nginx.store)
        with overheard.listening():
            for site in built.values():
                every_case(site)
            with nginx.store.client() as client:
                eventually(lambda: bool(client.exists("pc:{control}:top")), "who asks most is told")
            shown = operators_look(nginx)
            with nginx.store.client() as client:
                kept = in_store(client)
        places = {
            **kept,
            **{f"the name {name}": name.encode() for name in kept},
            **shown,
            **files_of(directory),
            **{
                name: text
                for site in built.values()
                for name, text in files_of(site.proxy.server.directory).items()
                if not name.endswith("/access.log")
            },  # the harness's own, which writes queries
            "the gate's log": nginx.gate.server.log.read_bytes(),
            "the store's log": nginx.store.server.log.read_bytes(),
            "commands": bytes(overheard.commands),
        }
        texts = {**nginx.known.secrets, **nginx.known.tokens}
        seen = json.dumps([request.headers for request in nginx.application.seen()])

    found = [
        f"{name} as {form[:12]!r} in {place}"
        for place, text in places.items()
        for name, secret in texts.items()
        for form in written_as(secret)
        if form in text
    ]
    assert not found, "\n".join(found)
    assert any(name.endswith("/gated.log") and text for name, text in places.items()), "nginx writes a log"
    pairs = [secret for name, secret in texts.items() if f'["x-app-token", "{secret}"]' in seen]
    assert not pairs, "the application gets no secret of a pair"
