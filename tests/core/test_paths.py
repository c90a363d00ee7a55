"""Paths: what is refused, what becomes one text, and that nothing else ever happens."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.core.paths import MAX_PATH, PathRefused, canonical_path, split_absolute, split_target

# Bytes that matter to paths, so that random ones meet often.
PIECES = [b"/", b"//", b".", b"..", b"%2e", b"%2F", b"%25", b"%", b"a", b"A", b"7", b"~", b";", b"\xc3\xa9"]
PIECES += [b"%C3%A9", b"%c3", b"\\", b"%5c", b"%00", b"\x00", b" ", b"%20", b"?", b"#", b"%3f", b"-", b"*"]
paths = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=12).map(lambda pieces: b"/" + b"".join(pieces)),
    st.from_regex(rb"(/[A-Za-z0-9_.~-]{0,3}){0,6}/?", fullmatch=True),
    st.binary(max_size=40),
)


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"/", "/"),
        (b"//", "/"),
        (b"/.", "/"),
        (b"/./", "/"),
        (b"/a", "/a"),
        (b"/a/", "/a/"),
        (b"/A/b-c_d~e.f", "/A/b-c_d~e.f"),
        (b"/a//b///c", "/a/b/c"),
        (b"//a", "/a"),
        (b"/a//", "/a/"),
        (b"/a/./b", "/a/b"),
        (b"/a/.", "/a/"),
        (b"/a/b/..", "/a/"),
        (b"/a/b/../c", "/a/c"),
        (b"/a/..", "/"),
        (b"/a/b/../../c", "/c"),
        (b"//a/../b", "/b"),
        (b"/a/%2e%2E/b", "/b"),
        (b"/a/.%2e/b", "/b"),
        (b"/%2e/a", "/a"),
        (b"/...", "/..."),
        (b"/.well-known/x", "/.well-known/x"),
        (b"/..a/.b", "/..a/.b"),
        (b"/%61dmin", "/admin"),
        (b"/a%20b", "/a b"),
        (b"/caf%C3%A9", "/café"),
        ("/café".encode(), "/café"),
        (b"/100%25", "/100%"),
        (b"/100%25g", "/100%g"),
        (b"/a%3Fb%23c", "/a?b#c"),
        (b"/a;b=c/d", "/a;b=c/d"),
        (b"/a/..;/b", "/a/..;/b"),
        (b"/a%3Bb", "/a;b"),
        (b"/a+b", "/a+b"),
        (b"/@:!$&'()*,=", "/@:!$&'()*,="),
        (b"/" + b"a" * (MAX_PATH - 1), "/" + "a" * (MAX_PATH - 1)),
    ],
)
def test_it_brings_a_path_to_its_one_form(raw: bytes, path: str) -> None:
    assert canonical_path(raw) == path


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "path does not begin with a slash"),
        (b"*", "path does not begin with a slash"),
        (b"a", "path does not begin with a slash"),
        (b"http://h/a", "path does not begin with a slash"),
        (b"%2fa", "path does not begin with a slash"),
        (b"/a%2fb", "encoded slash, backslash or NUL"),
        (b"/a%2Fb", "encoded slash, backslash or NUL"),
        (b"/a%5cb", "encoded slash, backslash or NUL"),
        (b"/a%5Cb", "encoded slash, backslash or NUL"),
        (b"/a%00", "encoded slash, backslash or NUL"),
        (b"/..%2fa", "encoded slash, backslash or NUL"),
        (b"/%252e%252e/a", "encoded twice"),
        (b"/%252fa", "encoded twice"),
        (b"/%25%32%66a", "encoded twice"),
        (b"/%2%35%32f", "bad percent escape"),
        (b"/%%32%66", "bad percent escape"),
        (b"/a%", "bad percent escape"),
        (b"/a%2", "bad percent escape"),
        (b"/a%zz", "bad percent escape"),
        (b"/a%u002f", "bad percent escape"),
        (b"/a%2 f", "character that does not belong into a path"),
        (b"/a\\b", "character that does not belong into a path"),
        (b"/a b", "character that does not belong into a path"),
        (b"/a#b", "character that does not belong into a path"),
        (b"/a?b", "character that does not belong into a path"),
        (b"/a\x00", "character that does not belong into a path"),
        (b"/a\r\nb", "character that does not belong into a path"),
        (b"/a\n", "character that does not belong into a path"),
        (b"/a\x7f", "character that does not belong into a path"),
        (b"/a%0a", "control character"),
        (b"/a%7F", "control character"),
        (b"/a%C2%85", "control character"),
        (b"/..", "dot segment above the root"),
        (b"/../a", "dot segment above the root"),
        (b"/a/../../b", "dot segment above the root"),
        (b"/%2e%2e/a", "dot segment above the root"),
        (b"/./../a", "dot segment above the root"),
        (b"/a//../b", "dot segment after an empty one"),
        (b"/a//./../b", "dot segment after an empty one"),
        (b"/a//b/../../c", "dot segment after an empty one"),
        (b"//../a", "dot segment after an empty one"),
        (b"/a%ff", "not UTF-8"),
        (b"/a\xff", "not UTF-8"),
        (b"/a%c0%af", "not UTF-8"),
        (b"/a%c0%ae%c0%ae/", "not UTF-8"),
        (b"/a%ed%a0%80", "not UTF-8"),
        (b"/" + b"a" * MAX_PATH, "path too long"),
        (b"/" + b"%61" * MAX_PATH, "path too long"),
    ],
)
def test_it_refuses_what_readers_understand_differently(raw: bytes, reason: str) -> None:
    with pytest.raises(PathRefused, match=f"^{reason}$"):
        canonical_path(raw)


@given(paths)
@example(b"/\n")
@example(b"/a\n")
def test_it_gives_a_clean_path_or_refuses_whatever_the_bytes(raw: bytes) -> None:
    try:
        path = canonical_path(raw)
    except PathRefused:
        return

    assert path.startswith("/")
    assert "//" not in path
    assert not {".", ".."} & set(path.split("/"))
    assert path.isprintable() or not re.search("[\x00-\x1f\x7f-\x9f\\\\]", path)


@given(paths)
def test_it_gives_the_same_for_its_own_answer_encoded_again(raw: bytes) -> None:
    try:
        path = canonical_path(raw)
    except PathRefused:
        return

    for safe in ("/", "/;:@!$&'()*+,=~"):
        assert canonical_path(quote(path, safe=safe).encode()) == path


@given(paths)
def test_it_agrees_with_a_slow_reading(raw: bytes) -> None:
    assert read(raw) == slow_canonical_path(raw)


@given(st.text(alphabet="abc%/.é ", max_size=12))
def test_it_reads_every_spelling_of_a_path_alike(text: str) -> None:
    raw = quote("/" + text)
    spelled = re.sub("[abc.]", lambda found: f"%{ord(found[0]):02x}", raw)

    assert read(raw.encode()) == read(spelled.encode())


@given(st.binary(max_size=30))
def test_it_splits_a_target_at_the_first_question_mark(raw: bytes) -> None:
    path, query = split_target(raw)

    assert b"?" not in path
    assert raw in {path, path + b"?" + query}


@pytest.mark.parametrize(
    ("raw", "parts"),
    [
        (b"http://h/p?q", (b"http", b"h", b"/p?q")),
        (b"https://Example.ORG:8443/A/b?C#d", (b"https", b"example.org", b"/A/b?C#d")),
        (b"HTTP://h", (b"http", b"h", b"/")),
        (b"http://h:/", (b"http", b"h", b"/")),
        (b"http://h//x", (b"http", b"h", b"//x")),
        (b"http://[2001:DB8::1]:80/", (b"http", b"[2001:db8::1]", b"/")),
        (b"http://my_service.ns-1:80/\xff\n", (b"http", b"my_service.ns-1", b"/\xff\n")),
    ],
)
def test_it_splits_an_absolute_uri(raw: bytes, parts: tuple[bytes, bytes, bytes]) -> None:
    assert split_absolute(raw) == parts


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"/a",
        b"//h/a",
        b"http:/h/a",
        b"http:///a",
        b"ftp://h/a",
        b"javascript://h/a",
        b"http://user@h/a",
        b"http://a?b/admin",  # a client's `Host: a?b` before the path /admin
        b"http://a#b/admin",
        b"http://a\\b/admin",
        b"http://a b/admin",
        b"http://h:80:80/",
        b"http://h:http/",
        b"http://h%2f/",
        b"http://h\n/",
        b" http://h/",
        b"http://[::1/",
        b"http://2001:db8::1/",
    ],
)
def test_it_refuses_what_is_not_plainly_an_absolute_uri(raw: bytes) -> None:
    with pytest.raises(PathRefused, match="not an absolute http URI"):
        split_absolute(raw)


def read(raw: bytes) -> str | None:
    try:
        return canonical_path(raw)
    except PathRefused:
        return None


def slow_canonical_path(raw: bytes) -> str | None:
    """The oracle: one byte and one segment at a time, None for a refusal."""
    if raw[:1] != b"/" or len(raw) > MAX_PATH:
        return None
    decoded = bytearray()
    at = 0
    while at < len(raw):
        byte = raw[at]
        if byte <= 0x20 or byte in b"\x7f\\#?":
            return None
        if byte == ord("%"):
            digits = raw[at + 1 : at + 3].decode("latin-1")
            if len(digits) != 2 or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
                return None
            byte = int(digits, 16)
            if byte in b"/\\\x00":
                return None
            at += 2
        decoded.append(byte)
        at += 1
    try:
        text = decoded.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if any(ord(char) < 0x20 or 0x7F <= ord(char) <= 0x9F for char in text):
        return None
    for at, char in enumerate(text):
        following = text[at + 1 : at + 3]
        if (
            char == "%"
            and len(following) == 2
            and all(digit in "0123456789abcdefABCDEF" for digit in following)
        ):
            return None
    merging, strict = resolve(text, merge_first=True), resolve(text, merge_first=False)
    return merging if merging == strict else None


def resolve(text: str, *, merge_first: bool) -> str | None:
    """RFC 3986 5.2.4 on segments, with slashes merged before or after; None above the root."""
    segments = text[1:].split("/")
    if merge_first:
        segments = [segment for segment in segments[:-1] if segment] + segments[-1:]
    kept: list[str] = []
    for segment in segments:
        if segment == "..":
            if not kept:
                return None
            kept.pop()
        elif segment != ".":
            kept.append(segment)
    directory = segments[-1] in {"", ".", ".."}
    names = [segment for segment in kept if segment]
    return "/" + "/".join(names) + ("/" if directory and names else "")
