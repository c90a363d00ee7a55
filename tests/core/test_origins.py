"""Origins: what an operator may write, and the one text of each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.origins import parse_origin


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("yourdomain.com", "yourdomain.com"),
        (".yourdomain.com", ".yourdomain.com"),
        ("*", "*"),
        ("https://*", "https://*"),
        ("*:8443", "*:8443"),
        ("https://app.example.com:8443", "https://app.example.com:8443"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("https://.example.com", "https://.example.com"),
        ("HTTPS://App.Example.COM", "https://app.example.com"),
        ("https://example.com:443", "https://example.com"),
        ("http://example.com:80", "http://example.com"),
        ("http://example.com:443", "http://example.com:443"),
        ("example.com:443", "example.com:443"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("my_app.example", "my_app.example"),
        ("capacitor://localhost", "capacitor://localhost"),
        (
            "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
            "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
        ),
        ("192.0.2.1:8080", "192.0.2.1:8080"),
        ("http://[2001:DB8:0::1]:8080", "http://[2001:db8::1]:8080"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
    ],
)
def test_it_accepts_in_canonical_form(written: str, means: str) -> None:
    assert parse_origin(written) == means
    assert parse_origin(means) == means


@pytest.mark.parametrize(
    ("written", "remedy"),
    [
        ("", "expected an origin"),
        ("null", "expected an origin"),
        (".", "without a last dot"),
        ("..example.com", "expected an origin"),
        ("example..com", "expected an origin"),
        ("-example.com", "expected an origin"),
        ("example-.com", "expected an origin"),
        ("a" * 64 + ".example", "expected an origin"),
        (".".join(["a" * 62] * 5), "at most 253"),
        (".".join(["a" * 50] * 5), "at most 253"),
        ("example.com.", "without a last dot"),
        ("*.example.com", 'write ".example.com"'),
        ("https://*.example.com", 'write ".example.com"'),
        ("ex*mple.com", "expected an origin"),
        ("https://example.com/", "leave out user, path"),
        ("example.com/app", "leave out user, path"),
        ("https://user@example.com", "leave out user, path"),
        ("https://example.com?x", "leave out user, path"),
        ("https:///example.com", "leave out user, path"),
        ("//example.com", "leave out user, path"),
        ("https://https://example.com", "leave out user, path"),
        ("bücher.example", "xn--"),
        ("example。com", "xn--"),
        ("exa mple.com", "expected an origin"),
        ("example.com\n", "expected an origin"),
        ("example.com:", "expected an origin"),
        ("example.com:0", "1 to 65535"),
        ("example.com:080", "1 to 65535"),
        ("example.com:65536", "1 to 65535"),
        ("example.com:x", "expected an origin"),
        ("1https://example.com", "expected an origin"),
        ("://example.com", "expected an origin"),
        ("10.1", "four decimal numbers"),
        ("010.0.0.1", "four decimal numbers"),
        ("0x7f.1", "four decimal numbers"),
        ("example.1", "four decimal numbers"),
        (".192.0.2.1", "four decimal numbers"),
        ("[::ffff:192.0.2.1]", "IPv6 address"),
        ("[fe80::1%25eth0]", "expected an origin"),
        ("[192.0.2.1]", "IPv6 address"),
        ("[::1", "expected an origin"),
        ("2001:db8::1", "expected an origin"),
    ],
)
def test_it_refuses_with_the_remedy(written: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_origin(written)
    assert remedy in str(caught.value)


@given(st.text(alphabet=st.sampled_from("aZ0.-_:/*[]@%#? äx"), max_size=30) | st.text(max_size=30))
def test_what_it_accepts_has_one_text(written: str) -> None:
    try:
        means = parse_origin(written)
    except ValueError:
        return
    assert parse_origin(means) == means
    assert means == means.lower()
    assert means.isascii()
