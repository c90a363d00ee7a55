"""What a request to the public plane says: addresses, credentials."""

from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from sidecar.core.addresses import AddressSet
from sidecar.public.reading import Credential, address_of, credential_of
from sidecar.public.refusals import Error, Refusal

PROXIES = AddressSet(["10.0.0.0/8"])


def headers(*lines: str) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict([("Authorization", line) for line in lines]))


def basic(text: str | bytes) -> str:
    return f"Basic {b64encode(text if isinstance(text, bytes) else text.encode()).decode()}"


@pytest.mark.parametrize(
    ("nearest", "forwarded", "address"),
    [
        ("203.0.113.9", [], "203.0.113.9"),
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
        ("::ffff:203.0.113.9", [], "203.0.113.9"),
        ("fe80::1%eth0", [], "fe80::1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.1", "10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["garbage"], None),
        ("10.0.0.1", ["198.51.100.1, \udcff"], None),
        (None, ["198.51.100.1"], "198.51.100.1"),
        (None, [], None),
    ],
)
def test_it_knows_the_client_behind_trusted_proxies_alone(
    nearest: str | None, forwarded: list[str], address: str | None
) -> None:
    assert address_of(nearest, forwarded, PROXIES) == address


@pytest.mark.parametrize(
    ("lines", "form", "credential"),
    [
        ([], {}, None),
        ([basic("k_a:s")], {}, ("k_a", "s")),
        ([basic("k_a:s").replace("Basic", "bAsIc")], {}, ("k_a", "s")),
        ([basic("k%5Fa:s%2Bt+u")], {}, ("k_a", "s+t?u")),
        ([basic("k_a:s:t")], {}, ("k_a", "s:t")),
        ([basic("k_a:s")], {"client_id": "k_a"}, ("k_a", "s")),
        ([], {"client_id": "k_a", "client_secret": "s"}, ("k_a", "s")),
        ([], {"client_id": "k_a"}, ("k_a", "")),
        ([], {"client_secret": "s"}, ("", "s")),
        ([], {"client_id": "k_a", "client_secret": " s\r\nX: y\x00é"}, ("k_a", "?s??X:?y??")),
        # Other schemes are no client authentication here.
        (["Bearer x.y"], {}, None),
        (["Bearer x.y"], {"client_id": "k_a"}, ("k_a", "")),
        # What was to be a credential and is none: nobody's, and the gate counts it.
        (["Basic"], {}, ("?", "?")),
        (["Basic !!!"], {}, ("?", "?")),
        ([basic("no colon")], {}, ("?", "?")),
        ([basic(b"\xff\xfe:x")], {}, ("?", "?")),
        ([basic("k_a:%ff")], {}, ("?", "?")),
        ([basic(":")], {}, ("", "")),
    ],
)
def test_it_reads_a_credential_from_one_place(
    lines: list[str], form: dict[str, str], credential: tuple[str, str] | None
) -> None:
    assert credential_of(headers(*lines), form) == credential


@pytest.mark.parametrize(
    ("lines", "form"),
    [
        ([basic("k_a:s"), basic("k_a:s")], {}),
        ([basic("k_a:s")], {"client_secret": "s"}),
        ([basic("k_a:s")], {"client_id": "k_a", "client_secret": "s"}),
        ([basic("k_a:s")], {"client_id": "k_b"}),
        (["Bearer x"], {"client_id": "k_a", "client_secret": "s"}),
    ],
)
def test_it_refuses_two_credentials_at_once(lines: list[str], form: dict[str, str]) -> None:
    with pytest.raises(Refusal) as refused:
        credential_of(headers(*lines), form)

    assert refused.value.error is Error.INVALID_REQUEST


@given(
    line=st.text(max_size=60) | st.binary(max_size=40).map(basic) | st.text(max_size=40).map(basic),
    form=st.dictionaries(st.sampled_from(["client_id", "client_secret"]), st.text(min_size=1, max_size=20)),
)
def test_it_hands_on_what_a_header_can_carry_and_nothing_else(line: str, form: dict[str, str]) -> None:
    try:
        credential = credential_of(headers(line), form)
    except Refusal:
        return

    assert credential is None or all(part.isascii() and min(part, default="!") >= "!" for part in credential)
    assert credential is None or not {"\x7f", " "} & {*credential.id, *credential.secret}


def test_it_shows_no_secret() -> None:
    assert "hidden" not in repr(Credential("k_a", "hidden"))
