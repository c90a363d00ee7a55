"""One header's value at a time."""

from __future__ import annotations

import pytest

from sidecar.fronts import datum
from sidecar.fronts.datum import Malformed


@pytest.mark.parametrize(
    ("value", "host"),
    [
        (None, ""),
        (b"", ""),
        (b"a", "a"),
        (b"A.Example", "a.example"),
        (b"a.example:80", "a.example"),
        (b"a.example.", "a.example"),
        (b"a.example.:443", "a.example"),
        (b"under_score.example", "under_score.example"),
        (b"203.0.113.9:8080", "203.0.113.9"),
        (b"[2001:DB8::1]", "[2001:db8::1]"),
        (b"[2001:db8::1]:80", "[2001:db8::1]"),
        (b"xn--bcher-kva.example", "xn--bcher-kva.example"),
    ],
)
def test_it_reads_hosts(value: bytes | None, host: str) -> None:
    assert datum.host(value) == host


@pytest.mark.parametrize(
    "value",
    [
        b" ",
        b".",
        b"..",
        b"a..b/c",
        b"a b",
        b"a/b",
        b"a@b",
        b"a:b",
        b"a:",
        b"a:999999",
        b"a?b",
        b"a,b",
        b"%61",
        b"b\xfccher.example",
        b"2001:db8::1",
        b"[::1",
        b"[zz]",
        b"a\x00",
        b"a" * 300,
    ],
)
def test_it_refuses_what_is_no_host(value: bytes) -> None:
    with pytest.raises(Malformed) as refused:
        datum.host(value)

    assert value.decode("latin-1").strip() == "" or value.decode("latin-1") not in str(refused.value).split()


@pytest.mark.parametrize(
    ("value", "version"),
    [
        (b"TLSv1", "1.0"),
        (b"TLSv1.1", "1.1"),
        (b"TLSv1.2", "1.2"),
        (b"TLSv1.3", "1.3"),
        (b"tls1.3", "1.3"),
        (b"1.2", "1.2"),
        (b"SSLv3", None),
        (b"-", None),
        (b"", None),
        (b"TLSv9", None),
    ],
)
def test_it_reads_tls_versions(value: bytes, version: str | None) -> None:
    assert datum.tls_version({b"x-original-tls": value}) == version


def test_it_believes_no_tls_version_without_https() -> None:
    assert datum.tls_version({b"x-original-tls": b"TLSv1.3", b"x-forwarded-proto": b"http"}) is None


@pytest.mark.parametrize(
    ("value", "length"), [(None, None), (b"", None), (b"-", None), (b"0", 0), (b"007", 7)]
)
def test_it_reads_lengths(value: bytes | None, length: int | None) -> None:
    assert datum.length(value) == length


@pytest.mark.parametrize("value", [b"-1", b"+1", b"1.5", b"1 2", b"\xb2", b"0x10", b"1" * 19])
def test_it_refuses_what_is_no_length(value: bytes) -> None:
    with pytest.raises(Malformed):
        datum.length(value)


@pytest.mark.parametrize("value", [b"GET", b"m-search", b"M-SEARCH", b"X" * 32])
def test_it_reads_methods(value: bytes) -> None:
    assert datum.method(value) == value.decode()


@pytest.mark.parametrize("value", [None, b"", b"GET ", b"G(", b"\xff", b"X" * 33, b"get", b"Post", b"dELETE"])
def test_it_refuses_what_is_no_method(value: bytes | None) -> None:
    with pytest.raises(Malformed):
        datum.method(value)


@pytest.mark.parametrize("value", [None, b"", b"a b", b"a\r\nb", b"a;b", b"\xff", b"a" * 129])
def test_it_passes_no_unfit_request_id(value: bytes | None) -> None:
    assert datum.request_id(value) is None


def test_it_passes_a_fit_request_id() -> None:
    assert datum.request_id(b"a.B_c-1" + b"x" * 121) == b"a.B_c-1" + b"x" * 121
