"""Which origins a rule allows: all that browsers write of it, and no lookalike."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.core.origins import Origins, parse_origin, serializable

EXTENSION: Final = "abcdefghijklmnopabcdefghijklmnop"


@pytest.mark.parametrize(
    ("rule", "origin"),
    [
        ("yourdomain.com", b"https://yourdomain.com"),
        ("yourdomain.com", b"http://yourdomain.com"),
        ("yourdomain.com", b"https://yourdomain.com:8443"),
        ("yourdomain.com", b"capacitor://yourdomain.com"),
        (".yourdomain.com", b"https://www.yourdomain.com"),
        (".yourdomain.com", b"http://a.b.c.yourdomain.com:3000"),
        (".yourdomain.com", b"https://yourdomain.com.yourdomain.com"),
        (".yourdomain.com", b"https://xn--bcher-kva.yourdomain.com"),
        (".yourdomain.com", b"https://my_app.yourdomain.com"),
        (".com", b"https://yourdomain.com"),
        ("yourdomain.com:8443", b"https://yourdomain.com:8443"),
        ("yourdomain.com:8443", b"http://yourdomain.com:8443"),
        ("yourdomain.com:443", b"https://yourdomain.com"),
        ("yourdomain.com:443", b"http://yourdomain.com:443"),
        ("yourdomain.com:80", b"http://yourdomain.com"),
        ("https://yourdomain.com", b"https://yourdomain.com"),
        ("https://yourdomain.com:8443", b"https://yourdomain.com:8443"),
        ("https://.yourdomain.com", b"https://www.yourdomain.com"),
        ("https://.yourdomain.com:8443", b"https://www.yourdomain.com:8443"),
        (".yourdomain.com:443", b"https://www.yourdomain.com"),
        ("https://*", b"https://anything.example"),
        ("https://*", b"https://[2001:db8::1]"),
        ("https://*:8443", b"https://192.0.2.1:8443"),
        ("*:8443", b"http://localhost:8443"),
        ("*:443", b"https://anything.example"),
        ("localhost", b"http://localhost:3000"),
        ("http://localhost:3000", b"http://localhost:3000"),
        ("capacitor://localhost", b"capacitor://localhost"),
        (f"chrome-extension://{EXTENSION}", f"chrome-extension://{EXTENSION}".encode()),
        ("192.0.2.1", b"http://192.0.2.1:8080"),
        ("[2001:db8::1]", b"http://[2001:db8::1]:8080"),
        ("http://[::1]:3000", b"http://[::1]:3000"),
        ("[::c000:201]", b"http://[::c000:201]"),
        ("xn--bcher-kva.example", b"https://xn--bcher-kva.example"),
        ("*", b"https://anything.example"),
        ("*", b"null"),
        ("*", b"file://"),
        ("*", b""),
        ("*", b"\xff, nonsense"),
        ("*", None),
    ],
)
def test_it_allows(rule: str, origin: bytes | None) -> None:
    assert Origins([rule]).allows(origin)


@pytest.mark.parametrize(
    ("rule", "origin"),
    [
        ("yourdomain.com", b"https://www.yourdomain.com"),
        ("www.yourdomain.com", b"https://yourdomain.com"),
        (".yourdomain.com", b"https://yourdomain.com"),
        (".yourdomain.com", b"https://.yourdomain.com"),
        (".yourdomain.com", b"https://evilyourdomain.com"),
        (".yourdomain.com", b"https://a..yourdomain.com"),
        (".yourdomain.com", b"https://www.yourdomain.com.evil.io"),
        (".yourdomain.com", b"https://yourdomain"),
        (".yourdomain.com", b"https://com"),
        ("https://yourdomain.com", b"http://yourdomain.com"),
        ("https://yourdomain.com", b"https://yourdomain.com:8443"),
        ("https://yourdomain.com", b"https://www.yourdomain.com"),
        ("https://yourdomain.com:8443", b"https://yourdomain.com"),
        ("https://yourdomain.com:8443", b"http://yourdomain.com:8443"),
        ("http://yourdomain.com:443", b"https://yourdomain.com"),
        ("https://.yourdomain.com", b"http://www.yourdomain.com"),
        ("https://.yourdomain.com", b"https://www.yourdomain.com:8443"),
        ("yourdomain.com:8443", b"https://yourdomain.com"),
        ("yourdomain.com:443", b"http://yourdomain.com"),
        ("yourdomain.com:443", b"capacitor://yourdomain.com"),
        ("https://*", b"http://anything.example"),
        ("https://*", b"https://anything.example:8443"),
        ("https://*", b"null"),
        ("https://*", None),
        ("*:8443", b"null"),
        ("*:8443", None),
        ("*:8443", b"https://anything.example"),
        ("localhost", b"http://localhost.evil.io"),
        ("192.0.2.1", b"http://192.0.2.10"),
        ("192.0.2.1", b"http://1.192.0.2.1"),
        ("[2001:db8::1]", b"http://[2001:db8::2]"),
        (f"chrome-extension://{EXTENSION}", f"https://{EXTENSION}".encode()),
        (f"chrome-extension://{EXTENSION}", f"moz-extension://{EXTENSION}".encode()),
    ],
)
def test_it_does_not_allow_another_place(rule: str, origin: bytes | None) -> None:
    assert not Origins([rule]).allows(origin)


NO_ORIGINS: Final = [
    b"",
    b"null",
    b"yourdomain.com",
    b"://yourdomain.com",
    b"//yourdomain.com",
    b"https:yourdomain.com",
    b"https:/yourdomain.com",
    b"https:///yourdomain.com",
    b"https://",
    b"https://:443",
    b"https://yourdomain.com/",
    b"https://yourdomain.com/path",
    b"https://yourdomain.com?x",
    b"https://yourdomain.com#x",
    b"https://yourdomain.com\\",
    b"https://yourdomain.com.",
    b"https://yourdomain.com:",
    b"https://yourdomain.com:443",
    b"http://yourdomain.com:80",
    b"https://yourdomain.com:0",
    b"https://yourdomain.com:08443",
    b"https://yourdomain.com:65536",
    b"https://yourdomain.com:8443:8443",
    b"https://user@yourdomain.com",
    b"https://user:pw@yourdomain.com",
    b"https://yourdomain.com@evil.io",
    b"https://yourdomain.com%40evil.io",
    b"https://evil.io/yourdomain.com",
    b"https://evil.io\\.yourdomain.com",
    b"https://evil.io%2f.yourdomain.com",
    b"https://evil.io#.yourdomain.com",
    b"https://evil.io\0.yourdomain.com",
    b"https://evil`.yourdomain.com",
    b"https://*.yourdomain.com",
    b"https://*",
    b"https://.yourdomain.com",
    b"HTTPS://yourdomain.com",
    b"https://YourDomain.com",
    b"https://y\xc3\xb6urdomain.com",
    b"https://yourdomain\xe3\x80\x82com",
    b"https://yourdomain.c\xf0\x9d\x97\xbcm",
    b"https://yourdomain.com\xff",
    b" https://yourdomain.com",
    b"https://yourdomain.com ",
    b"https://yourdomain.com\n",
    b"https://yourdomain.com\r\nX: y",
    b"https://yourdomain.com\0",
    b"https://yourdomain.com,https://evil.io",
    b"https://yourdomain.com, https://evil.io",
    b"https://yourdomain.com https://evil.io",
    b"https://yourdomain.com null",
    b"https://-yourdomain.com",
    b"https://your..domain.com",
    b"https://192.0.2.01",
    b"https://192.0.2",
    b"https://192.0.2.1.",
    b"https://0xc0000201",
    b"https://3221225985",
    b"https://foo.1",
    b"https://foo.0x1f",
    b"https://[2001:DB8::1]",
    b"https://[2001:db8:0::1]",
    b"https://[::ffff:192.0.2.1]",
    b"https://[::ffff:c000:201]",
    b"https://[::192.0.2.1]",
    b"https://[fe80::1%25eth0]",
    b"https://[192.0.2.1]",
    b"https://2001:db8::1",
    b"1https://yourdomain.com",
    b"ht tps://yourdomain.com",
    b"https://https://yourdomain.com",
    b"https://" + b"a" * 64 + b".com",
    b"https://" + b".".join([b"a" * 60] * 5),
    b"https://" + b"a." * 40_000 + b"com",
    b"h" * 100_000 + b"://yourdomain.com",
    b"https://yourdomain.com" + b" " * 100_000,
]


@pytest.mark.parametrize("sent", NO_ORIGINS, ids=lambda sent: repr(sent[:50]))
def test_only_a_bare_star_allows_what_no_browser_sends(sent: bytes) -> None:
    ports = ["https://*", "http://*", "*:443", "*:80", "*:8443"]
    wide = Origins([*ports, "yourdomain.com", ".yourdomain.com", ".com", ".io", "192.0.2.1", "[2001:db8::1]"])

    assert not wide.allows(sent)
    assert not serializable(sent)
    assert Origins(["yourdomain.com", "*"]).allows(sent)


def test_a_host_may_have_253_characters_and_no_more() -> None:
    longest = ".".join(["a" * 61] * 3 + ["b" * 61, "c" * 3, "d"])

    assert len(longest) == 253
    assert Origins([".d"]).allows(f"https://{longest}:65535".encode())
    assert not Origins([".d"]).allows(f"https://a{longest}:65535".encode())


def test_without_rules_it_allows_nobody() -> None:
    nobody = Origins([])

    assert not any(nobody.allows(origin) for origin in (None, b"null", b"https://yourdomain.com"))


def test_each_rule_counts_and_none_takes_anything_away() -> None:
    some = Origins(
        ["https://yourdomain.com", "yourdomain.com:8443", ".example.com", "http://www.example.com"]
    )

    allowed = [
        b"https://yourdomain.com",
        b"http://yourdomain.com:8443",
        b"https://www.example.com",
        b"http://www.example.com",
    ]
    assert all(some.allows(origin) for origin in allowed)
    assert not some.allows(b"http://yourdomain.com")
    assert not some.allows(b"https://example.com")


@pytest.mark.parametrize(
    "origin",
    [
        b"https://yourdomain.com",
        b"http://yourdomain.com:443",
        b"https://[2001:db8::1]:8443",
        b"http://192.0.2.1",
        b"capacitor://localhost",
    ],
)
def test_an_answer_may_repeat_an_origin(origin: bytes) -> None:
    assert serializable(origin)


# --- for all origins ----------------------------------------------------------

USUAL: Final = {"http": 80, "https": 443}

labels = st.sampled_from(["a", "www", "evil", "yourdomain", "com", "example", "xn--p1ai", "a_b", "x-y"])
names = st.lists(labels, min_size=1, max_size=4).map(".".join)
hosts = names | st.sampled_from(["192.0.2.1", "[::1]", "[2001:db8::1]", "localhost"])
ports = st.sampled_from([None, 80, 443, 8443, 65_535])
rules = st.builds(
    lambda scheme, host, port: parse_origin(scheme + host + (f":{port}" if port else "")),
    st.sampled_from(["", "http://", "https://", "capacitor://"]),
    hosts | names.map(".{}".format) | st.just("*"),
    ports,
)


@st.composite
def origins(draw: st.DrawFn) -> str:
    """As a browser writes them."""
    scheme, port = draw(st.sampled_from(["http", "https", "capacitor"])), draw(ports)
    return f"{scheme}://{draw(hosts)}" + (f":{port}" if port and port != USUAL.get(scheme) else "")


def host_and_port(text: str) -> tuple[str, str]:
    host, colon, port = text.rpartition(":")
    return (host, port) if colon and not text.endswith("]") else (text, "")


def satisfies(origin: str, rule: str) -> bool:
    """The oracle: one rule at a time, in the words of the module."""
    scheme, _, rest = rule.rpartition("://")
    host, port = host_and_port(rest)
    sent = urlsplit(origin)
    sent_host, _ = host_and_port(sent.netloc)
    sent_port = sent.port or USUAL.get(sent.scheme)
    if rule == "*":
        return True
    if scheme and scheme != sent.scheme:
        return False
    if port and int(port) != sent_port:
        return False
    if scheme and not port and sent.port is not None:
        return False
    if host == "*":
        return True
    return sent_host.endswith(host) if host.startswith(".") else sent_host == host


@given(st.lists(rules, max_size=4), origins())
@example(["*:443"], "https://a")
def test_it_allows_what_one_of_its_rules_allows(some: list[str], origin: str) -> None:
    assert Origins(some).allows(origin.encode()) is any(satisfies(origin, rule) for rule in some)
    assert serializable(origin.encode())


@given(names, st.binary(max_size=8) | st.sampled_from([b".evil.io", b"@evil.io", b":80@evil.io", b"%2eevil"]))
def test_nothing_that_follows_a_host_makes_it_another_one(host: str, after: bytes) -> None:
    """What is appended is a port, a longer name of another place, or no origin at all."""
    sent = f"https://{host}".encode() + after

    allowed = Origins([host]).allows(sent)

    assert allowed is (after == b"" or (after[:1] == b":" and serializable(sent)))


@given(st.binary(max_size=40) | st.from_regex(rb"https?://[a-z.:\[\]@0-9*-]{0,30}", fullmatch=True))
def test_what_it_takes_for_an_origin_has_one_text(sent: bytes) -> None:
    if serializable(sent):
        assert parse_origin(sent.decode()).encode() == sent
        assert Origins([parse_origin(sent.decode())]).allows(sent)
    else:
        assert not Origins(["https://*", "http://*", "*:443", ".a", "a"]).allows(sent)
