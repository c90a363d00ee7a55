"""notations: what each kind of leaf takes, and that refusals never repeat a secret."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.model import Dimension
from sidecar.document import notations
from sidecar.document.notations import DAY_MS, SECOND_MS, TcpEndpoint, UnixEndpoint
from sidecar.document.yaml_text import Tree

window = notations.duration_ms(SECOND_MS, 31 * DAY_MS)


@pytest.mark.parametrize(
    ("read", "written", "value"),
    [
        (window, "1s", 1000),
        (window, "90s", 90_000),
        (window, "1m", 60_000),
        (window, "2h", 7_200_000),
        (window, "31d", 31 * DAY_MS),
        (notations.size, 0, 0),
        (notations.size, 1024, 1024),
        (notations.size, "1MiB", 1 << 20),
        (notations.size, "10MB", 10_000_000),
        (notations.size, "64KiB", 65_536),
        (notations.size, "100B", 100),
        (notations.endpoint, "127.0.0.1:8080", TcpEndpoint("127.0.0.1", 8080)),
        (notations.endpoint, "[::1]:8080", TcpEndpoint("::1", 8080)),
        (notations.endpoint, "localhost:0", TcpEndpoint("localhost", 0)),
        (notations.endpoint, "unix:run/check.sock", UnixEndpoint(Path("run/check.sock"), 0o660, None)),
        (
            notations.endpoint,
            "unix:/run/c.sock?mode=0600&group=www-data",
            UnixEndpoint(Path("/run/c.sock"), 0o600, "www-data"),
        ),
        (notations.endpoint_or_off, "off", None),
        (notations.endpoint_or_off, "0.0.0.0:8082", TcpEndpoint("0.0.0.0", 8082)),
        (notations.store_url, "embedded", "embedded"),
        (notations.store_url, "redis://redis:6379/0", "redis://redis:6379/0"),
        (notations.store_url, "redis://redis", "redis://redis"),
        (notations.store_url, "rediss://app:pw@[::1]:6379/3", "rediss://app:pw@[::1]:6379/3"),
        (notations.store_url, "unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
        (notations.store_url, "unix://app:pw@/run/redis.sock", "unix://app:pw@/run/redis.sock"),
        (notations.name, "per-ip_2", "per-ip_2"),
        (notations.name, "a" * 63, "a" * 63),
        (notations.dimension, "ip", Dimension("ip")),
        (notations.dimension, "tenant", Dimension("tenant")),
        (notations.dimension, "header:X-User", Dimension("header", b"x-user")),
        (notations.header_name, "X-Api-Key", b"x-api-key"),
        (notations.short_cost, 3, 3),
        (notations.short_cost, "header:X-Cost", b"x-cost"),
        (notations.method, "POST", "POST"),
        (notations.method, "M-SEARCH", "M-SEARCH"),
        (notations.host_pattern, "*.Example.com", "*.example.com"),
        (notations.host_pattern, "[::1]", "[::1]"),
        (notations.path_pattern, "/x/*", "/x/*"),
        (notations.path_pattern, "*.php", "*.php"),
        (notations.path_pattern, "/café/..x", "/café/..x"),
        (notations.media_type, "Application/JSON", "application/json"),
        (notations.media_type, "application/problem+json", "application/problem+json"),
        (notations.media_type, "image/*", "image/*"),
        (notations.media_type, "Application/*+JSON", "application/*+json"),
        (notations.media_type, "application/vnd.api+json", "application/vnd.api+json"),
        (notations.media_type, "application/" + "x" * 127, "application/" + "x" * 127),
        (notations.tls_version, "1.2", "1.2"),
        (notations.tls_version, 1.3, "1.3"),
        (notations.cidr, "192.0.2.0/24", "192.0.2.0/24"),
        (notations.cidr, "192.0.2.1", "192.0.2.1/32"),
        (notations.file_path, "lists/drop.txt", Path("lists/drop.txt")),
        (notations.store_prefix, "pc:", "pc:"),
        (notations.expression, "(?i)evilbot", "(?i)evilbot"),
    ],
)
def test_it_reads(read: Callable[[Tree], object], written: Tree, value: object) -> None:
    assert read(written) == value


@pytest.mark.parametrize(
    ("read", "written", "says"),
    [
        (window, 60, '"60s"'),
        (window, True, "a duration such as"),
        (window, "1.5h", "a whole number with s, m, h or d"),
        (window, "1h30m", "a whole number with s, m, h or d"),
        (window, "100ms", "a whole number with s, m, h or d"),
        (window, "0s", "1s to 31d"),
        (window, "32d", "1s to 31d"),
        (notations.size, True, "expected bytes"),
        (notations.size, -1, "expected bytes"),
        (notations.size, "1mb", "expected bytes"),
        (notations.size, "1.5MB", "expected bytes"),
        (notations.endpoint, 8080, "expected"),
        (notations.endpoint, "8080", "after the last colon"),
        (notations.endpoint, ":8080", '"0.0.0.0:8080"'),
        (notations.endpoint, "*:8080", '"0.0.0.0:8080"'),
        (notations.endpoint, "127.0.0.1:65536", "0 to 65535"),
        (notations.endpoint, "127.0.0.1:http", "0 to 65535"),
        (notations.endpoint, "127.0.0.256:80", "neither an address nor a host name"),
        (notations.endpoint, "a b:80", "neither an address nor a host name"),
        (notations.endpoint, "::1:80", "in brackets"),
        (notations.endpoint, "[::g]:80", "not an IPv6 address"),
        (notations.endpoint, "[fe80::1%eth0]:80", "not an IPv6 address"),
        (notations.endpoint, "off", "after the last colon"),
        (notations.endpoint, "unix:", "the socket's path"),
        (notations.endpoint, "unix:run/", "the socket's path"),
        (notations.endpoint, "unix:a?mode=0999", "octal"),
        (notations.endpoint, "unix:a?mode=4755", "octal"),
        (notations.endpoint, "unix:a?mod=0600", "mode and group"),
        (notations.endpoint, "unix:a?mode=0600&mode=0660", "each once"),
        (notations.endpoint, "unix:a?group=", "name of a group"),
        (notations.endpoint, "unix:a?", "mode and group"),
        (notations.store_url, "redis:/redis", "expected"),
        (notations.store_url, "http://redis", "expected"),
        (notations.store_url, "redis://", "expected"),
        (notations.store_url, "redis://redis:0", "expected"),
        (notations.store_url, "redis://redis:66000", "not a URL"),
        (notations.store_url, "redis://redis/a", "database's number"),
        (notations.store_url, "redis://redis/0?socket_timeout=9", "options after"),
        (notations.store_url, "redis://redis/0#x", "fragment"),
        (notations.store_url, "redis://re dis", "spaces"),
        (notations.store_url, "redis+sentinel://a/b", "sentinels and clusters"),
        (notations.store_url, "redis+cluster://a", "sentinels and clusters"),
        (notations.store_url, "unix://run/redis.sock", "absolute path"),
        (notations.store_url, "unix:///run/redis.sock?timeout=1", "only the database"),
        (notations.name, "Per-ip", "lower-case letter"),
        (notations.name, "1st", "lower-case letter"),
        (notations.name, "a" * 64, "up to 62"),
        (notations.name, "a\n", "lower-case letter"),
        (notations.dimension, "user", "one of ip, key"),
        (notations.dimension, "header:", "name of a header"),
        (notations.dimension, "header:a b", "name of a header"),
        (notations.header_name, "X: y", "name of a header"),
        (notations.short_cost, 0, "whole number from 1"),
        (notations.short_cost, True, "whole number from 1"),
        (notations.short_cost, "X-Cost", "header:X-Cost"),
        (notations.method, "get", '"GET"'),
        (notations.method, "*", "leave `methods` out"),
        (notations.method, "GET POST", "HTTP method"),
        (notations.host_pattern, "https://a", "without scheme"),
        (notations.host_pattern, "a:80", "without scheme, port"),
        (notations.host_pattern, "[::1]:80", "without scheme, port"),
        (notations.host_pattern, "münchen.de", "punycode"),
        (notations.host_pattern, "", "expected a host"),
        (notations.path_pattern, "x/*", 'begins with "/"'),
        (notations.path_pattern, "", 'begins with "/"'),
        (notations.path_pattern, "/a?b=*", "without the query"),
        (notations.path_pattern, "/a%20b", "decoded"),
        (notations.path_pattern, "/a//b", "canonical"),
        (notations.path_pattern, "/a/../b", "canonical"),
        (notations.path_pattern, "/a/.", "canonical"),
        (notations.path_pattern, "/a\n", "printable"),
        (notations.media_type, "json", "media type such as"),
        (notations.media_type, "text/html; charset=utf-8", "without its parameters"),
        (notations.media_type, 5, "media type such as"),
        (notations.media_type, "*/*", "for any media type"),
        (notations.media_type, "*", "media type such as"),
        (notations.media_type, "*/json", "media type such as"),
        (notations.media_type, "*/*+json", "media type such as"),
        (notations.media_type, "application/*json", "media type such as"),
        (notations.media_type, "application/*+", "media type such as"),
        (notations.media_type, "application/*+vnd+json", "media type such as"),
        (notations.media_type, "application/x*+json", "media type such as"),
        (notations.media_type, "application/+json", "media type such as"),
        (notations.media_type, "application/json, text/html", "media type such as"),
        (notations.media_type, "application/json\n", "media type such as"),
        (notations.media_type, "application/" + "x" * 128, "media type such as"),
        (notations.tls_version, "TLSv1.2", "expected"),
        (notations.tls_version, 1.4, "expected"),
        (notations.tls_version, True, "expected"),
        (notations.cidr, "10.0.0.1/8", "10.0.0.0/8"),
        (notations.cidr, "localhost", "not an IPv4 or IPv6"),
        (notations.cidr, 10, "expected a network"),
        (notations.file_path, "", "expected a path"),
        (notations.store_prefix, "pc{1}:", "expected 1 to 64"),
        (notations.store_prefix, "", "expected 1 to 64"),
        (notations.expression, "a(b", "RE2 cannot read it"),
        (notations.expression, "(?=a)b", "no look-around"),
        (notations.expression, 5, "expected a regular expression"),
    ],
)
def test_it_refuses_and_says_what_should_stand_there(
    read: Callable[[Tree], object], written: Tree, says: str
) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the message is compared below
        read(written)

    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("embedded", "embedded"),
        ("redis://redis:6379/0", "redis://redis:6379/0"),
        ("redis://app:hunter2@redis:6379/0", "redis://app:***@redis:6379/0"),
        ("rediss://:hunter2@redis", "rediss://:***@redis"),
        ("redis://app@redis", "redis://app@redis"),
        ("unix://app:hunter2@/run/redis.sock?db=0", "unix://app:***@/run/redis.sock?***"),
        ("redis://redis/0?password=hunter2", "redis://redis/0?***"),
        ("redis://:hun/ter2@redis", "***"),
        ("redis://:12/hunter2@redis", "***"),
        ("redis://app:12#hunter2@redis", "***"),
        ("redis://app:12?hunter2@redis", "***"),
        ("redis:/:hunter2@redis", "***"),
        ("hunter2", "***"),
        ("redis://[hunter2", "***"),
        ("redis://:p@hunter2@redis", "redis://:***@redis"),
        ("https://idp.example/jwks", "https://idp.example/jwks"),
        ("https://app:hunter2@idp.example/jwks?key=1", "https://app:***@idp.example/jwks?***"),
    ],
)
def test_it_shows_a_url_without_its_password(url: str, shown: str) -> None:
    assert notations.redacted_url(url) == shown


@given(st.text(alphabet="secrt:/@?#[]%. 0", min_size=4, max_size=20))
def test_it_never_repeats_a_url_that_it_refuses(password: str) -> None:
    url = f"redis://app:{password}@redis:6379/0"
    try:
        notations.store_url(url)
    except ValueError as refused:
        assert password not in str(refused)
        assert refused.__cause__ is None
        assert refused.__suppress_context__ or refused.__context__ is None


@given(st.text(alphabet="s:/@?#[]%!0", max_size=9), st.text(alphabet="s:/@?#[]%!0", max_size=9))
def test_it_never_shows_a_password(before: str, after: str) -> None:
    assert "xyz" not in notations.redacted_url(f"redis://app:{before}xyz{after}@redis:6379/0")


@given(st.none() | st.booleans() | st.integers() | st.floats() | st.text())
def test_it_raises_nothing_but_value_errors(value: Tree) -> None:
    for read in (
        window,
        notations.size,
        notations.endpoint_or_off,
        notations.store_url,
        notations.name,
        notations.dimension,
        notations.header_name,
        notations.short_cost,
        notations.method,
        notations.host_pattern,
        notations.path_pattern,
        notations.media_type,
        notations.tls_version,
        notations.cidr,
        notations.file_path,
        notations.store_prefix,
        notations.expression,
    ):
        try:
            read(value)
        except ValueError as refused:
            assert str(refused)
