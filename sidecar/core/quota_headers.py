"""The headers that tell a client its quotas: RateLimit-Policy, RateLimit, X-RateLimit-*.

The first two are Lists of Structured Fields (RFC 9651) as draft-ietf-httpapi-ratelimit-headers-11
has them, one item for each limit, in policy order:

    RateLimit-Policy: "per-ip";q=100;w=60, "burst";q=10
    RateLimit: "per-ip";r=50;t=30, "burst";r=9;t=1

Names of limits match `[a-z][a-z0-9_-]{0,62}`, so they need no escapes in a String.

Not here: which limits to report and what is left of them (`decide`), and the header lines' place in
an answer (`fronts`).
"""

from __future__ import annotations

from collections.abc import Sequence

from sidecar.core.model import Quota


def policy_header(limits: Sequence[tuple[str, int, int]]) -> bytes:
    """The value of `RateLimit-Policy` for (name, permits, window_ms) of each limit.

    `w` is in whole seconds by definition, and left out for a window that is not.

    >>> policy_header([("per-ip", 100, 60_000), ("burst", 10, 1_500)])
    b'"per-ip";q=100;w=60, "burst";q=10'
    """
    return ", ".join(
        f'"{name}";q={permits}' + ("" if window_ms % 1000 else f";w={window_ms // 1000}")
        for name, permits, window_ms in limits
    ).encode("ascii")


def ratelimit_format(names: Sequence[str]) -> bytes:
    """The value of `RateLimit` for these limits, as a `%` format of remaining and seconds of each in turn.

    >>> ratelimit_format(["per-ip"]) % (50, 30)
    b'"per-ip";r=50;t=30'
    """
    return ", ".join(f'"{name}";r=%d;t=%d' for name in names).encode("ascii")


def ratelimit_header(quotas: Sequence[Quota]) -> bytes:
    """The value of `RateLimit`: what is left (never less than 0) and whole seconds until it grows."""
    # One or two are usual. Written out they save the list and the join: a third of the time of two.
    if len(quotas) == 1:
        ((limit, remaining, reset_s),) = quotas
        return f'"{limit.name}";r={remaining if remaining > 0 else 0};t={reset_s}'.encode()
    if len(quotas) == 2:
        (limit, remaining, reset_s), (other, left, grows_s) = quotas
        return (
            f'"{limit.name}";r={remaining if remaining > 0 else 0};t={reset_s}, '
            f'"{other.name}";r={left if left > 0 else 0};t={grows_s}'
        ).encode()
    return ", ".join(
        [
            f'"{limit.name}";r={remaining if remaining > 0 else 0};t={reset_s}'
            for limit, remaining, reset_s in quotas
        ]
    ).encode()


def legacy_headers(quotas: Sequence[Quota]) -> bytes:
    """The `X-RateLimit-Limit`, `-Remaining` and `-Reset` lines, each with its CRLF; empty without quotas.

    These headers hold one quota, so it is the one with the least remaining, which is the next to
    refuse; among equals the one that takes longest to grow. `Reset` is in seconds from now, as most clients
    read it, and not a point in time.
    """
    if not quotas:
        return b""
    limit, remaining, reset_s = min(quotas, key=lambda quota: (quota.remaining, -quota.reset_s))
    return (
        f"X-RateLimit-Limit: {limit.permits}\r\n"
        f"X-RateLimit-Remaining: {max(remaining, 0)}\r\n"
        f"X-RateLimit-Reset: {reset_s}\r\n"
    ).encode("ascii")
