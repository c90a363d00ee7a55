"""The quick reader of simple heads against the one that reads everything."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.fronts import Head
from sidecar.fronts.lone_head import lone_head_reader
from sidecar.fronts.wire import PIECE, MessageReader, WireLimits
from tests.fronts.doubles import ask_api, ask_envoy, ask_forward, ask_nginx

SIMPLE = (
    ask_nginx(),
    ask_nginx(more=["A:", "B:  c  ", "D: e\t", "Connection: Keep-Alive"]),
    ask_envoy(method="POST", target="/a?b", more=["Content-Length: 0"]),
    ask_forward(more=["Upgrade: websocket", "Expect: 100-continue"]),
    b"HEAD /auth/forward HTTP/1.1\r\nhost: \r\n\r\n",
)

NOT_SO_SIMPLE = {
    "nothing": b"",
    "two requests": ask_nginx() * 2,
    "half a request": ask_nginx()[:-1],
    "a request and a half": ask_nginx() + ask_nginx()[:-2],
    "an empty line before": b"\r\n" + ask_nginx(),
    "an empty line behind": ask_nginx() + b"\r\n",
    "two empty lines behind": ask_nginx() + b"\r\n\r\n",
    "a header twice": ask_nginx(more=["A: 1", "A: 1"]),
    "a header twice in other cases": ask_nginx(more=["A: 1", "a: 2"]),
    "two hosts": ask_nginx(more=["Host: b"]),
    "no host": b"GET /auth/nginx HTTP/1.1\r\nA: b\r\n\r\n",
    "a body": ask_api({}),
    "a body still to come": ask_nginx(more=["Content-Length: 3"]),
    "a body that looks like an end": ask_nginx(more=["Content-Length: 4"]) + b"\r\n\r\n",
    "a body that looks like a request": ask_nginx(more=["Content-Length: 5"]) + b"a\r\n\r\n",
    "an empty chunked body": ask_nginx(more=["Transfer-Encoding: chunked"]) + b"0\r\n\r\n",
    "a chunked body to come": ask_nginx(more=["Transfer-Encoding: chunked"]),
    "a last request": ask_nginx(more=["Connection: close"]),
    "a last request by an older name": ask_nginx(more=["Proxy-Connection: close"]),
    "a last request among others": ask_nginx(more=["Connection: keep-alive, close"]),
    "an upgrade": ask_nginx(more=["Connection: Upgrade", "Upgrade: websocket"]),
    "CONNECT": b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "HTTP/1.0": ask_nginx().replace(b"HTTP/1.1", b"HTTP/1.0"),
    "HTTP/0.9": b"GET /auth/nginx\r\n\r\n",
    "another protocol": b"OPTIONS /auth/nginx RTSP/1.0\r\nHost: a\r\n\r\n",
    "two blanks": ask_nginx().replace(b"GET ", b"GET  "),
    "a folded line": ask_nginx(more=["A: b", " c"]),
    "an unknown method": ask_nginx().replace(b"GET", b"FROB"),
    "more than a piece": ask_nginx(more=["A: " + "a" * PIECE]),
    "many headers": ask_nginx(more=[f"A{index}: b" for index in range(300)]),
}


def described(head: Head) -> tuple[object, ...]:
    return (head.method, head.target, head.headers, head.repeated, head.body, head.keep_alive)


def read_in_full(data: bytes) -> tuple[object, ...] | None:
    """The one request that `data` is, with nothing under way behind it, according to the careful reader."""
    reader = MessageReader(WireLimits())
    for start in range(0, len(data), PIECE):
        reader.feed(data[start : start + PIECE])
        if reader.refusal is not None:
            return None
    if len(reader.messages) != 1 or reader.mid:
        return None
    return described(reader.messages[0])


@pytest.mark.parametrize("data", SIMPLE)
def test_it_reads_simple_heads(data: bytes) -> None:
    head = lone_head_reader(WireLimits())(data)

    assert head is not None
    assert described(head) == read_in_full(data)
    assert head.keep_alive


@pytest.mark.parametrize("data", NOT_SO_SIMPLE.values(), ids=NOT_SO_SIMPLE.keys())
def test_it_leaves_the_rest_to_the_other_and_reads_on(data: bytes) -> None:
    read = lone_head_reader(WireLimits())

    assert read(data) is None
    head = read(ask_nginx())

    assert head is not None
    assert described(head) == read_in_full(ask_nginx())


_LINES = st.sampled_from(
    """Connection: keep-alive|Connection: close|connection: Upgrade|Proxy-Connection: close|Upgrade: x|Expect: x
    |Content-Length: 0|Content-Length: 4|Content-Length:  0 |Transfer-Encoding: chunked|Host: b|A: 1|a: 1|B:
    |C: \t d \t|D: \xff|E : 1| F: 1|G|""".replace("\n    ", "").split("|")
)
_STREAMS = st.one_of(
    st.builds(lambda lines: ask_nginx(more=lines), st.lists(_LINES, max_size=5)),
    st.builds(
        lambda data, cut, extra: data[:cut] + extra + data[cut:],
        st.sampled_from(SIMPLE),
        st.integers(0, 200),
        st.one_of(st.binary(max_size=3), st.sampled_from((b"\r\n", b"\r\n\r\n", b"A: 1\r\n", b" ", b":"))),
    ),
)


@settings(max_examples=500)
@given(st.lists(_STREAMS, min_size=1, max_size=4))
def test_it_never_reads_otherwise_than_the_careful_one(streams: list[bytes]) -> None:
    read = lone_head_reader(WireLimits())

    for data in streams:
        head = read(data)
        assert head is None or described(head) == read_in_full(data)


def test_it_heeds_tighter_limits() -> None:
    assert lone_head_reader(WireLimits(max_head=50))(ask_nginx()) is None
    assert lone_head_reader(WireLimits(max_target=50))(ask_nginx()) is None
    assert lone_head_reader(WireLimits(max_headers=2))(ask_nginx()) is None
