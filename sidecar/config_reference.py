"""The configuration reference as Markdown, made from the schema.

`python -m sidecar config reference` prints it; README holds a copy between two markers, and a
test compares them. Types and defaults come from the schema; the sentences stand here, one a key,
and a key without its sentence (or a sentence without its key) is an error.

Does not know about the rest of README, nor about secrets, which are no keys of the document.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import Final, get_args, get_origin

import msgspec

from sidecar.core.starter_patterns import STARTER
from sidecar.document.credentials import JWKS_REFRESH_MS, JwtSection
from sidecar.document.notations import TcpEndpoint, shown_ms
from sidecar.document.schema import (
    DETECTING_THRESHOLD,
    TRIGGER_FOR_MS,
    TRIGGER_QUIET_MS,
    Document,
    FilterSection,
    LimitSection,
    MatchSection,
    PatternSection,
)
from sidecar.document.walk import form_of, struct_arm

BEGIN: Final = "<!-- reference:begin -->"
END: Final = "<!-- reference:end -->"

_INTRODUCTION: Final = """\
`portcullis.yaml` is YAML with fewer surprises: booleans are `true` and `false` only (`on`, `off`, `yes`,
`no` are text), numbers are decimal, and duplicate keys, unknown keys, anchors, aliases, tags and merge keys
are errors. Durations are a whole number with a unit: `10s`, `1m`, `1h`, `1d`. Sizes are bytes, or `64KiB`,
`10MB`. Names match `[a-z][a-z0-9_-]{0,62}`, and no two rules share one, limits and filters together. Relative
paths are relative to the document. Every problem is reported with its path, its value and the remedy, all at
once; nothing of a document with a problem is used."""

_ENVIRONMENT: Final = """\
`PORTCULLIS_CONFIG` names the document where `--config` does not; without either, `./portcullis.yaml` is read
if it is there. `PORTCULLIS_STORE_URL` wins over `store.url`, so that a password need not stand in the
document."""

_RELOAD: Final = """\
A reload takes every change but those of `listen`, `workers`, `state_dir`, `tracing.otlp` and `store` (all but
`store.outage`): these need a restart, and a document that changes them is refused by name while the old one
goes on serving."""

_SENTENCES: Final = {
    "listen.check": "Where proxies ask. A unix socket takes `?mode=0660&group=www-data` (0660 without it).",
    "listen.admin": "Where metrics and the admin API are.",
    "listen.admin_tls.cert": "The certificate (and its chain) that the admin plane shows; without it, plain HTTP.",
    "listen.admin_tls.key": "Its private key, without a passphrase.",
    "listen.admin_tls.client_ca": "Authorities: with them, clients need a certificate that one of them signed.",
    "listen.health": "A second port with `/metrics`, `/livez` and `/readyz` alone.",
    "listen.public": (
        "Where issued tokens are got, and the keys that verify them. Needs `credentials.tokens`, and `public_tls` "
        "unless it is on loopback or a unix socket."
    ),
    "listen.public_tls.cert": "The certificate (and its chain) that the public port shows.",
    "listen.public_tls.key": "Its private key, without a passphrase.",
    "listen.idle_s": "Seconds until an idle connection is closed; take more than the proxy's own idle time.",
    "listen.max_connections": "Connections of the check plane at once, for each worker.",
    "listen.grace_s": "Seconds that requests in flight have at a stop.",
    "workers": "Processes that decide.",
    "store.url": (
        "`embedded` is a private Valkey started here. Else `redis://`, `rediss://` (TLS) with "
        "`user:password@host:port/db`, or `unix:///path/to.sock?db=0`."
    ),
    "store.deadline_ms": "The longest that a request waits for the store.",
    "store.shards": "Parts over which the counters are spread; 1 is best for one server.",
    "store.prefix": "What every name in the store begins with.",
    "store.outage": (
        "What a limit does while the store is silent, unless it says so itself: `local` enforces this "
        "process's share, `open` admits, `closed` refuses with 503."
    ),
    "store.ca": "Authorities that may sign the store's certificate, with `rediss://`; else the system's.",
    "store.cert": "The certificate that this gate shows to the store, with `rediss://`.",
    "store.key": "Its private key.",
    "state_dir": "Where the embedded store and what must outlive a restart are kept; one gate at a time.",
    "trusted_proxies": (
        "Networks whose `X-Forwarded-For` entries are believed. `0.0.0.0/0` believes everybody: then each "
        "client chooses the address it is counted under."
    ),
    "ipv6_prefix": "Limits count IPv6 clients by networks of this length; lists see the whole address.",
    "attack_mode.status": "What everybody is answered while attack mode is on.",
    "attack_mode.retry_after_s": "The `Retry-After` of these answers, in seconds.",
    "attack_mode.pass": "Networks that attack mode lets pass.",
    "attack_mode.unknown": "Whether attack mode counts as on while neither the store nor the disk can say.",
    "attack_mode.trigger.refusals_per_s": (
        "When all replicas together refuse this much, attack mode turns on by itself. What attack mode refuses "
        "does not count: after `quiet` it tries whether the flood is over, unless `requests_per_s` sees it."
    ),
    "attack_mode.trigger.requests_per_s": (
        "The same for all requests, refused or not. Without either, only people turn attack mode on."
    ),
    "attack_mode.trigger.for": (
        "For how long, without a break. While a person's `off` stands it stays off; `attack off --for 1h` "
        "leaves it to the trigger again after an hour."
    ),
    "attack_mode.trigger.quiet": (
        "After this long below the thresholds it turns off by itself, unless a person turned it on."
    ),
    "addresses.deny.cidrs": "Networks that are refused. Deny wins over the other two lists.",
    "addresses.deny.files": "Files with more of them: one network a line, `#` begins a comment.",
    "addresses.allow.cidrs": "Networks that filters with `require: allow` let pass.",
    "addresses.allow.files": "Files with more of them.",
    "addresses.exempt.cidrs": "Networks that no limit counts.",
    "addresses.exempt.files": "Files with more of them.",
    "credentials.mode": (
        "`registry` checks every key against the registry; `opaque` tells clients apart by their key, unverified; "
        "`none` reads no key."
    ),
    "credentials.headers": "Headers that carry a whole key: with a registry `<id>.<secret>`, else any text.",
    "credentials.bearer": (
        "Whether `Authorization: Bearer` is read: `<id>.<secret>`, or a token. This and all that follows but `query` "
        "needs the registry."
    ),
    "credentials.server.id": "The header with the id of a server key.",
    "credentials.server.secret": "The header with its secret.",
    "credentials.client.id": "The header with the id of a client key.",
    "credentials.client.secret": "The header with its secret, which is no secret: every client has it.",
    "credentials.query.names": (
        "Query parameters that carry credentials and should not, since every log keeps them; case does not count."
    ),
    "credentials.query.mode": "`enforce` refuses a request with one of them, `shadow` only reports it.",
    "credentials.roles": "Names for several scopes: a key with the scope `role:editor` has the scopes of `editor`.",
    "credentials.tenants": "What holds for all keys of a tenant.",
    "credentials.tenants.<name>.cidrs": "The networks from which its keys work, beside what each key demands.",
    "credentials.tokens": "Tokens that keys get here in exchange, on `listen.public`.",
    "credentials.tokens.issuer": (
        "What they name as their issuer, and where clients reach `listen.public`; `http` on loopback only."
    ),
    "credentials.tokens.audience": "Whom they are for.",
    "credentials.tokens.keys": (
        "Files with private keys (PEM; Ed25519 or P-256). The first signs, all are trusted: put a new one in front, "
        "and take the old one out once its tokens have ended."
    ),
    "credentials.tokens.ttl": "How long one is good for.",
    "credentials.jwt": "Other issuers whose tokens are credentials.",
    "credentials.jwt[].name": "What the gate calls it: in logs, and in the ids of its subjects.",
    "credentials.jwt[].issuer": "The `iss` of its tokens, compared whole.",
    "credentials.jwt[].audiences": "The `aud` of a token must be among these.",
    "credentials.jwt[].algorithms": "Signatures that are believed.",
    "credentials.jwt[].jwks.file": "A file with its public keys. Either this or `url`.",
    "credentials.jwt[].jwks.url": "Where they are fetched; `http` on loopback only.",
    "credentials.jwt[].jwks.refresh": "How often.",
    "credentials.jwt[].leeway": "How far its clock may be off.",
    "credentials.jwt[].claims.subject": "The claim that names who asks.",
    "credentials.jwt[].claims.scopes": "The claim with the scopes, as a list or one text; `''` reads none.",
    "credentials.jwt[].claims.tenant": "The claim with the tenant.",
    "credentials.jwt[].claims.plan": "The claim with the plan.",
    "fronts.envoy.address": (
        "The Envoy front takes the client's address from `X-Real-IP`, or walks along `X-Forwarded-For`."
    ),
    "patterns": (
        "Sets of patterns of your own, by name, for filters. There are already: "
        + ", ".join(f"`{name}`" for name in STARTER)
        + "."
    ),
    "limits": "The limits, in order; `[]` for none.",
    "filters": "The filters, in order; every one that matches must be content.",
    "default": "`deny` refuses a request that no filter matches.",
    "headers.legacy": "Whether answers also carry `X-RateLimit-Limit`, `-Remaining` and `-Reset`.",
    "log.refusals_per_s": "The most refusals that are logged in a second; 0 logs none.",
    "log.sample": "The share of the allowed requests that is logged too, 0 to 1.",
    "log.allows_per_s": "The most of these in a second.",
    "log.hide": (
        "Paths with something in them that no log should keep, such as `/reset/*`: lines and spans show the pattern. "
        "Keys' secrets and JWTs are hidden anyway."
    ),
    "tracing.otlp": (
        "Where spans go, as OTLP over HTTP. It needs the extra `tracing`; headers and certificates come from "
        "OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_HEADERS`, …)."
    ),
    "tracing.sample": (
        "The share of the requests without a `traceparent` that get a span, 0 to 1; one with it gets a span if it "
        "says `sampled`."
    ),
    "limits[].name": "Its name in headers, metrics and logs.",
    "limits[].per": (
        "What is counted apart, all of the list together. A limit whose `key`, `tenant` or `header:` is absent "
        "from a request does not apply to it. `route` is the first of `match.paths` that matches, or `*`."
    ),
    "limits[].permits": "The most that any interval as long as the window admits; 0 is always closed.",
    "limits[].window": "The length of that interval.",
    "limits[].slices": "How finely the window slides; a slice is at least 20 ms.",
    "limits[].match": "Which requests it concerns.",
    "limits[].mode": "`shadow` counts and reports, and never refuses.",
    "limits[].outage": "As `store.outage`, for this limit.",
    "limits[].cost": (
        "Permits that one request takes: a number, or the header in which the proxy says it. A header that "
        "is absent costs 1, one that is no number costs the most."
    ),
    "limits[].cost.header": "The header; the proxy must not let a client's own through.",
    "limits[].cost.max": "The most that it may say.",
    "limits[].block_for": "How long a counter stays closed once it refused. Such a limit never leases.",
    "limits[].lease": "`auto` lets a process ask for more permits than it needs at once; `never` does not.",
    "limits[].plans": "Permits by the plan of the key, instead of `permits`. Needs the registry.",
    "limits[].counts": (
        "`credential_failures` counts credentials that were tried and are not valid, and refuses before the next is "
        "tried. Needs the registry; nobody is known then, so count by address, route, host or header."
    ),
    "filters[].name": "Its name in metrics and logs.",
    "filters[].match": "Which requests it concerns.",
    "filters[].mode": "`shadow` counts and reports, and never refuses.",
    "filters[].require": "The address must be in the allow list.",
    "filters[].deny": "`true` refuses whatever matches.",
    "filters[].methods": "Methods that may be used.",
    "filters[].content_types": (
        "Media types that a body may have, `image/*` and `application/*+json` too; parameters do not count."
    ),
    "filters[].max_body": "The longest body.",
    "filters[].tls_min": "The oldest TLS version.",
    "filters[].kinds": (
        "Who may pass: with a registry only server keys where no filter says so, and clients and `anonymous` only "
        "where every filter that matches and has `kinds` names them. `client` keys are public: they ship in clients."
    ),
    "filters[].scopes": "Scopes of the key or the token, all of which are demanded. Needs the registry.",
    "filters[].origins": (
        "Web origins from which client keys may be used here: `example.com`, `.example.com` (subdomains), "
        "`https://app.example.com:8443` or `*`."
    ),
    "filters[].patterns": "Sets of patterns that are sought; each one that is found adds its severity to the score.",
    "filters[].threshold": "The score from which on a request is refused.",
    "filters[].headers": "Headers in which patterns with `headers` look.",
    "patterns.<name>[].name": "Its name in logs and explanations, as `<set>/<name>`.",
    "patterns.<name>[].pattern": (
        "Sought anywhere in the text, as RE2 does: no look-around, no back-references, and time that grows with the "
        "text only. `(?i)` in front takes either case."
    ),
    "patterns.<name>[].in": (
        "Where it looks: the canonical `path`, the `query` as sent, its `values` decoded, the `headers` that the "
        "filter names."
    ),
    "patterns.<name>[].severity": "What it adds to the score: 5, 4, 3 or 2.",
    "match.hosts": "Hosts, without port; case does not count.",
    "match.methods": "Methods.",
    "match.paths": "Canonical paths: decoded, without query; case counts.",
    "match.kinds": "Kinds of credentials. This and what follows needs the registry.",
    "match.plans": "Plans of the key or the token.",
    "match.scopes": "Scopes, of which one is enough.",
}

_DEFAULTS: Final = {
    "limits": "one: `per-ip`, 100 a minute",
    "limits[].outage": "that of the store",
    "limits[].cost.max": "`permits`",
    "credentials.headers": '`["X-Api-Key"]`',
    "credentials.server.id": "`X-App-Id`",
    "credentials.server.secret": "`X-App-Token`",
    "credentials.client.id": "`X-Client-Application-Id`",
    "credentials.client.secret": "`X-Client-Token`",
    "credentials.query.mode": "`enforce` with a registry, else `shadow`",
    "credentials.jwt[].jwks.refresh": f"`{shown_ms(JWKS_REFRESH_MS)}`",
    "filters[].threshold": f"`{DETECTING_THRESHOLD}`",
    "filters[].headers": '`["User-Agent", "Referer"]`',
    "listen.public": "`off`",
    "listen.health": "`off`",
    "attack_mode.trigger.for": f"`{shown_ms(TRIGGER_FOR_MS)}`",
    "attack_mode.trigger.quiet": f"`{shown_ms(TRIGGER_QUIET_MS)}`",
    "limits[].match": "everything",
    "filters[].match": "everything",
}
"""Where the schema's own value would not tell an operator what happens."""


_TABLES: Final[tuple[tuple[type[msgspec.Struct], str], ...]] = (
    (Document, ""),
    (JwtSection, "credentials.jwt[]"),
    (LimitSection, "limits[]"),
    (FilterSection, "filters[]"),
    (MatchSection, "match"),
    (PatternSection, "patterns.<name>[]"),
)
"""What has a table of its own."""

_HEADINGS: Final = {
    "credentials.jwt[]": "Each item of `credentials.jwt`:",
    "limits[]": "Each item of `limits`:",
    "filters[]": (
        "Each item of `filters`, which needs a demand (all but the first three) unless `default` is `deny`:"
    ),
    "match": (
        "`match` of either; what is present must match, and without any of it everything does. In a "
        "pattern `*` matches anything, `/` included, and `/x/*` also matches `/x`:"
    ),
    "patterns.<name>[]": "Each item of a set in `patterns`:",
}


def reference() -> str:
    """The whole reference, without markers; ends with a newline.

    Raises KeyError for a key of the schema without a sentence, and the other way round.
    """
    parts = [_INTRODUCTION, _ENVIRONMENT]
    told: set[str] = set()
    for kind, path in _TABLES:
        rows = list(_rows(kind, path))
        told.update(key for key, *_ in rows)
        parts += [*([_HEADINGS[path]] if path else []), _table(rows)]
    if unused := _SENTENCES.keys() - told:
        raise KeyError(f"sentences without their key: {sorted(unused)}")
    return "\n\n".join([*parts, _RELOAD]) + "\n"


def _rows(kind: type[msgspec.Struct], path: str) -> Iterator[tuple[str, str, str, str]]:
    """Key, what it takes, default, sentence: depth first, in the schema's order."""
    for field in msgspec.structs.fields(kind):
        key = f"{path}.{field.encode_name}" if path else field.encode_name
        inner = struct_arm(field.type)
        below = _is_below(field.type)
        if inner is None or below or field.type is not inner:
            yield key, _takes(field.type), _default(key, field), _SENTENCES[key]
        if inner is not None and not below:
            yield from _rows(inner, key)
        if get_origin(field.type) is dict and (item := struct_arm(get_args(field.type)[1])) is not None:
            yield from _rows(item, f"{key}.<name>")


def _is_below(kind: object) -> bool:
    """Whether what stands there, or each of its items, has a table of its own."""
    return any(kind is table for table, _ in _TABLES) or any(map(_is_below, get_args(kind)))


def _takes(kind: object) -> str:
    below = ", below" if _is_below(kind) else ""
    return form_of(kind).replace("a list: a mapping", "a list of mappings") + below


def _default(key: str, field: msgspec.structs.FieldInfo) -> str:
    if key in _DEFAULTS:
        return _DEFAULTS[key]
    if field.required:
        return "required"
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    if isinstance(value, int) and form_of(field.type).startswith("a duration"):
        return f"`{shown_ms(value)}`"
    return "" if isinstance(value, msgspec.Struct) else _written(value)


def _written(value: object) -> str:
    """A default as one would write it in the document."""
    if value is None or value in ((), {}, ""):
        return "none"
    return f"`{_plain(value)}`"


def _plain(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{_plain(item)}"' for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, float):
        return f"{value:g}"
    assert isinstance(value, int | str | Path | TcpEndpoint), value
    return str(value)


def _table(rows: Iterable[tuple[str, str, str, str]]) -> str:
    lines = ["| key | takes | default | meaning |", "|---|---|---|---|"]
    lines += [f"| `{key}` | {takes} | {default} | {says} |" for key, takes, default, says in rows]
    return "\n".join(lines)
