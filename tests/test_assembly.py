"""What a configuration tells the fronts about credentials."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.assembly import fronts_of, reader_of
from sidecar.config import Config, parse

KEY = {b"x-api-key": b"a.b"}
PAIR = {b"x-app-id": b"a", b"x-app-token": b"b"}
BEARER = {b"authorization": b"Bearer a.b"}


def config(credentials: str) -> Config:
    return parse(f"credentials: {credentials}", name="test", folder=Path())


@pytest.mark.parametrize(
    ("credentials", "key", "pair", "bearer"),
    [
        ("{mode: none}", None, None, None),
        ("{}", b"a.b", None, None),
        ("{mode: opaque, headers: [Authorization]}", None, None, b"Bearer a.b"),
        ("{mode: registry}", b"ka.b", b"sa\0b", b"ba.b"),
        ("{mode: registry, headers: [X-Key], bearer: false}", None, b"sa\0b", None),
        ("{mode: registry, server: {id: X-Id, secret: X-Secret}}", b"ka.b", None, b"ba.b"),
        (
            "{mode: registry, client: {id: X-App-Id, secret: X-App-Token}, server: {id: X-I, secret: X-S}}",
            b"ka.b",
            b"ca\0b",
            b"ba.b",
        ),
    ],
)
def test_it_reads_what_the_document_names(
    credentials: str, key: bytes | None, pair: bytes | None, bearer: bytes | None
) -> None:
    read = reader_of(config(credentials)).read

    assert (read(KEY), read(PAIR), read(BEARER)) == (key, pair, bearer)


@pytest.mark.parametrize("mode", ["opaque", "registry"])
def test_it_has_every_proxy_front_refuse_what_it_reads_when_it_comes_twice(mode: str) -> None:
    document = config(f"{{mode: {mode}}}")

    proxies = [front for front in fronts_of(document) if front.name != "api"]

    assert len(proxies) == 3
    for front in proxies:
        assert front.single_valued >= {
            *reader_of(document).names,
            b"origin",
            b"access-control-request-method",
        }
