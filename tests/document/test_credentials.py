"""credentials: defaults of the section, and what its keys must satisfy together."""

from __future__ import annotations

import pytest

from sidecar.document.credentials import CredentialsSection
from sidecar.document.schema import Document
from sidecar.document.walk import Problem, read_struct
from sidecar.document.yaml_text import read_yaml

TOKENS = "issuer: 'https://gate.example', audience: api, keys: [sign.pem]"
REST = "algorithms: [RS256], jwks: {file: j.json}"
IDP = f"name: idp, issuer: 'https://idp.example', audiences: [api], {REST}"


def test_it_has_a_default_for_everything() -> None:
    section, problems = _read("{mode: registry}")

    assert problems == []
    assert section.headers == (b"x-api-key",)
    assert section.bearer
    assert (section.server.id, section.server.secret) == (b"x-app-id", b"x-app-token")
    assert (section.client.id, section.client.secret) == (b"x-client-application-id", b"x-client-token")
    assert section.query.names == (
        "api_key",
        "apikey",
        "api-key",
        "access_token",
        "app_token",
        "client_secret",
    )
    assert section.query.mode is None
    assert (section.roles, section.tenants, section.tokens, section.issuers) == ({}, {}, None, ())


def test_it_has_defaults_for_tokens_and_issuers() -> None:
    section, problems = _read(f"{{mode: registry, tokens: {{{TOKENS}}}, jwt: [{{{IDP}}}]}}")

    assert problems == []
    assert section.tokens is not None
    assert section.tokens.ttl == 900_000
    assert section.issuers[0].leeway == 30_000
    assert section.issuers[0].jwks.refresh is None
    claims = section.issuers[0].claims
    assert (claims.subject, claims.scopes, claims.tenant, claims.plan) == ("sub", "scope", "", "")


@pytest.mark.parametrize(
    "text",
    [
        "{mode: registry, headers: []}",
        "{mode: none, headers: []}",
        "{mode: registry, bearer: false, headers: [Authorization]}",
        "{mode: opaque, headers: [Authorization, X-App-Id]}",
        "{mode: registry, server: {id: X-Id}, client: {id: X-Client-Id}}",
        f"{{jwt: [{{{IDP}}}, {{name: other, issuer: 'https://other.example', audiences: [api], {REST}}}]}}",
    ],
)
def test_it_takes(text: str) -> None:
    assert _read(text)[1] == []


@pytest.mark.parametrize(
    ("text", "path", "says"),
    [
        ("{headers: [X-A, X-B, x-a]}", "headers[2]", '"x-a": `headers[0]` reads this header already'),
        ("{headers: ['X A']}", "headers[0]", "the name of a header"),
        ("{headers: [X-Real-IP]}", "headers[0]", "read for another purpose"),
        ("{headers: [X-Forwarded-For]}", "headers[0]", "read for another purpose"),
        ("{headers: [Content-Type]}", "headers[0]", "read for another purpose"),
        ("{headers: [Cookie]}", "headers[0]", "all cookies of a site"),
        ("{server: {id: Host}}", "server.id", "read for another purpose"),
        ("{client: {secret: Origin}}", "client.secret", "read for another purpose"),
        ("{client: X-Id}", "client", "keys such as id, secret"),
        ("{mode: registry, headers: [Authorization]}", "headers[0]", "set `bearer: false`, or remove it"),
        (
            "{mode: registry, server: {secret: Authorization}}",
            "server.secret",
            '"authorization": `bearer` reads this header already',
        ),
        ("{mode: registry, headers: [X-App-Id]}", "server.id", "`headers[0]` reads this header already"),
        ("{mode: registry, server: {id: X-A, secret: x-a}}", "server.secret", "`server.id` reads"),
        ("{mode: registry, client: {id: X-App-Token}}", "client.id", "`server.secret` reads"),
        ("{bearer: yes}", "bearer", '"yes": expected true or false'),
        ("{query: {names: []}}", "query.names", "looks for nothing"),
        ("{query: {names: [a, A]}}", "query.names", "the same parameter twice"),
        ("{query: {names: ['a b']}}", "query.names[0]", "name of a query parameter"),
        (f"{{query: {{names: [{', '.join(f'a{n}' for n in range(33))}]}}}}", "query.names", "at most 32"),
        ("{query: {mode: off}}", "query.mode", "expected enforce or shadow"),
        ("{roles: [editor]}", "roles", "expected a mapping"),
        ("{roles: {Editor: [a]}}", "roles.Editor", "expected a name"),
        ("{roles: {editor: []}}", "roles.editor", "grants nothing"),
        ("{roles: {editor: ['role:reader']}}", "roles.editor[0]", "write the scopes that it stands for"),
        ("{roles: {editor: [a b]}}", "roles.editor[0]", "1 to 64"),
        ("{tenants: {acme: {}}}", "tenants.acme.cidrs", "missing: expected a list"),
        ("{tenants: {acme: {cidrs: []}}}", "tenants.acme.cidrs", "would shut the tenant out"),
        ("{tenants: {acme: {cidrs: [10.0.0.1/8]}}}", "tenants.acme.cidrs[0]", "10.0.0.0/8"),
        ("{tenants: {Acme: {cidrs: [10.0.0.1]}}}", "tenants.Acme", "expected a name"),
        ("{tokens: sign.pem}", "tokens", "keys such as issuer, audience, keys"),
        ("{tokens: {audience: api, keys: [a]}}", "tokens.issuer", "missing: expected an https URL"),
        (f"{{tokens: {{{TOKENS}, ttl: 59s}}}}", "tokens.ttl", "1m to 1d"),
        (f"{{tokens: {{{TOKENS}, ttl: 2d}}}}", "tokens.ttl", "1m to 1d"),
        (f"{{tokens: {{{TOKENS.replace('[sign.pem]', '[]')}}}}}", "tokens.keys", "signs nothing"),
        (
            f"{{tokens: {{{TOKENS.replace('https:', 'http:')}}}}}",
            "tokens.issuer",
            '"http://gate.example": anybody',
        ),
        (f"{{tokens: {{{TOKENS.replace('api', repr(' '))}}}}}", "tokens.audience", "1 to 256 printable"),
        ("{jwt: {name: a}}", "jwt", "a mapping: expected a list"),
        (f"{{jwt: [{{{IDP.replace('[RS256]', '[]')}}}]}}", "jwt[0].algorithms", "trusts no signature"),
        (f"{{jwt: [{{{IDP.replace('RS256', 'none')}}}]}}", "jwt[0].algorithms[0]", "is anybody's"),
        (f"{{jwt: [{{{IDP.replace('RS256', 'HS256')}}}]}}", "jwt[0].algorithms[0]", "can also make tokens"),
        (f"{{jwt: [{{{IDP.replace('[api]', '[]')}}}]}}", "jwt[0].audiences", "meant for others"),
        (f"{{jwt: [{{{IDP.replace('idp,', 'Idp,')}}}]}}", "jwt[0].name", "expected a name"),
        (f"{{jwt: [{{{IDP}, leeway: 6m}}]}}", "jwt[0].leeway", "0s to 5m"),
        (f"{{jwt: [{{{IDP}, claims: {{subject: ''}}}}]}}", "jwt[0].claims.subject", "1 to 128"),
        (f"{{jwt: [{{{IDP}, claims: {{role: a}}}}]}}", "jwt[0].claims.role", "unknown key"),
        (f"{{jwt: [{{{IDP.replace('file: j.json', '')}}}]}}", "jwt[0].jwks", "exactly one of"),
        (
            f"{{jwt: [{{{IDP.replace('j.json', 'j.json, url: https://a.example')}}}]}}",
            "jwt[0].jwks",
            "exactly one of",
        ),
        (
            f"{{jwt: [{{{IDP.replace('j.json', 'j.json, refresh: 5m')}}}]}}",
            "jwt[0].jwks.refresh",
            "read again when it changes: remove it",
        ),
        (
            f"{{jwt: [{{{IDP.replace('file: j.json', 'url: http://a.example')}}}]}}",
            "jwt[0].jwks.url",
            "https",
        ),
        (
            f"{{jwt: [{{{IDP.replace('file: j.json', 'url: https://a.example, refresh: 2d')}}}]}}",
            "jwt[0].jwks.refresh",
            "1m to 1d",
        ),
        (
            f"{{jwt: [{{{IDP}}}, {{{IDP.replace('//idp', '//other')}}}]}}",
            "jwt[1].name",
            '"idp": jwt[0] has this name already',
        ),
        (
            f"{{jwt: [{{{IDP}}}, {{{IDP.replace('idp,', 'other,')}}}]}}",
            "jwt[1].issuer",
            "jwt[0] names this issuer already: merge the two",
        ),
        (
            f"{{tokens: {{{TOKENS}}}, jwt: [{{{IDP.replace('idp.example', 'gate.example')}}}]}}",
            "jwt[0].issuer",
            "`tokens` verifies them; remove it",
        ),
    ],
)
def test_it_refuses_with_path_and_remedy(text: str, path: str, says: str) -> None:
    _, problems = _read(text)

    assert [problem.path for problem in problems] == [f"credentials.{path}"]
    assert says in problems[0].message


def _read(text: str) -> tuple[CredentialsSection, list[Problem]]:
    problems: list[Problem] = []
    document = read_struct(read_yaml(f"credentials: {text}").tree, Document, problems)
    return document.credentials, problems
