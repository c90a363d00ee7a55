"""What a line of the decision log holds: the schema, and how a decision becomes one.

A field that stands here without `| UnsetType` is in every line of its kind, so that a column can rely on it. Names and
meanings stay: readers' queries depend on them, and a new field is added at the end.

`schema` is all of it as one JSON Schema; `decision_log.schema.json` beside this file is its text, and a test says
when it is no longer.

Which decisions are told, and how many, is `decision_log`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import UNSET, Meta, UnsetType

from sidecar.core.bound import Bound
from sidecar.core.model import Match, Reason, Request, Source, Verdict
from sidecar.core.patterns import Matcher
from sidecar.metrics import FRONTS
from sidecar.plain_text import cut, without_credentials
from sidecar.trace_context import trace_parent

MAX_PATH: Final = 256
MAX_TEXT: Final = 128
"""Characters of any other field that a client fills. Lines this short are one atomic write to a pipe,
so that those of several workers do not mix."""
MAX_NAMES: Final = 6
"""Names in one list; how many more there are, the last one says."""


def one_of(*values: str, description: str = "") -> Meta:
    """A text of a closed set; said, not checked: what is told here comes from the gate itself."""
    return Meta(description=description or None, extra_json_schema={"enum": list(values)})


Moment = Annotated[
    str,
    Meta(
        description="When, by this machine's clock: RFC 3339, UTC, milliseconds.",
        examples=["2026-03-01T12:00:00.123Z"],
        extra_json_schema={"format": "date-time"},
    ),
]
Names = list[str]


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One decision: a refusal, or an allow that was chosen by `log.sample`."""

    ts: Moment
    event: Annotated[str, one_of("refused", "allowed")]
    front: Annotated[str, one_of(*FRONTS, description="Who asked.")]
    reason: Annotated[str, one_of(*(reason.code for reason in Reason), description="Why it was answered so.")]
    status: Annotated[
        int, Meta(description="The status meant for the client; a front may have to disguise it.")
    ]
    source: Annotated[str, one_of(*(source.label for source in Source), description="What decided.")]
    rule: Annotated[str | None, Meta(description="The rule that refused.")]
    limits: Annotated[Names, Meta(description="The limits that refused.")]
    shadow: Annotated[Names, Meta(description="The rules in shadow mode that would have refused as well.")]
    retry_after_s: int | None
    address: Annotated[str, Meta(description="The client's, or `unknown`.")]
    method: str
    host: str
    path: Annotated[
        str, Meta(description="Canonical, without the query; of what `log.hide` names, its pattern.")
    ]
    request_id: str
    key: Annotated[str | None, Meta(description="The public id of the credential; null: nobody is known.")]
    tenant: Annotated[str | None, Meta(description="The tenant of the credential.")]
    kind: Annotated[
        str | None, Meta(description="The kind of a credential that was proved: `server` or `client`.")
    ]
    elapsed_us: Annotated[
        int, Meta(description="Microseconds from the arrival of the request's bytes to the verdict.")
    ]
    patterns: Annotated[
        Names | UnsetType, Meta(description="What filters found whose threshold was reached: `<set>/<name>`.")
    ] = UNSET
    malformed: Annotated[str | UnsetType, Meta(description="Why the request could not be judged.")] = UNSET
    trace_id: Annotated[str | UnsetType, Meta(description="Of the request's traceparent.")] = UNSET
    span_id: Annotated[
        str | UnsetType, Meta(description="The span that asked: of the request's traceparent.")
    ] = UNSET
    sample: Annotated[
        float | UnsetType, Meta(description="The share of the allowed requests that are told.")
    ] = UNSET
    suppressed: Annotated[
        int | UnsetType, Meta(description="How many before this one, of the same event, got no line.")
    ] = UNSET


class Suppressed(msgspec.Struct, frozen=True, kw_only=True):
    """A flood has ended: decisions that no line of their own told of, nor the next one's `suppressed`."""

    ts: Moment
    event: Annotated[str, one_of("suppressed")]
    refusals: int
    allows: int | UnsetType = UNSET


class LogDropped(msgspec.Struct, frozen=True, kw_only=True):
    """Lines that found the queue full, because nobody read stderr."""

    ts: Moment
    event: Annotated[str, one_of("log_dropped")]
    lines: int


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A record of the standard library's `logging`."""

    ts: Moment
    event: Annotated[str, one_of("log")]
    level: str
    logger: str
    message: str
    traceback: str | UnsetType = UNSET


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A change of state; its other fields depend on the event."""

    ts: Moment
    event: str


class Hidden:
    """The paths that hold what nobody should read: of these a line shows the pattern."""

    __slots__ = ("_matcher",)

    def __init__(self, patterns: Sequence[str]) -> None:
        self._matcher = Matcher(Match(paths=tuple(patterns))) if patterns else None

    def shown(self, path: str) -> str:
        """The path as it may be read."""
        if self._matcher is not None and (pattern := self._matcher.route("", "", path)) is not None:
            return pattern
        # A canonical path has no query; a "?" could only come from an escape, or from a path that was not fit to be
        # made canonical.
        return without_credentials(path.partition("?")[0])


NOTHING_HIDDEN: Final = Hidden(())


class Seen(NamedTuple):
    """One decision as the check plane tells of it; `elapsed_s` is since its bytes arrived."""

    front_index: int
    request: Request
    verdict: Verdict
    request_id: bytes
    elapsed_s: float


def decision_of(
    seen: Seen, wall_s: float, *, hidden: Hidden = NOTHING_HIDDEN, sample: float | UnsetType = UNSET
) -> Decision:
    """The decision as it may be read by others: bounded, and without query, header, cookie or credential."""
    front_index, request, verdict, request_id, elapsed_s = seen
    bound = request.bound if isinstance(request.bound, Bound) else None
    key_id = (bound.key_id if bound is not None else b"") or verdict.key_id
    parent = trace_parent(request.headers)
    return Decision(
        ts=moment(wall_s),
        event="allowed" if verdict.reason.allowed else "refused",
        front=FRONTS[front_index],
        reason=verdict.reason.code,
        status=verdict.status,
        source=verdict.source.label,
        rule=None if verdict.rule is None else cut(verdict.rule, MAX_TEXT),
        limits=_names(verdict.violated),
        shadow=_names(verdict.shadow),
        retry_after_s=verdict.retry_after_s,
        address=cut(request.address, MAX_TEXT),
        method=cut(request.method, MAX_TEXT),
        host=cut(request.host, MAX_TEXT),
        path=cut(hidden.shown(request.path), MAX_PATH),
        request_id=cut(without_credentials(request_id.decode("ascii", "replace")), MAX_TEXT),
        key=cut(key_id.decode("ascii", "replace"), MAX_TEXT) if key_id else None,
        tenant=cut(bound.tenant, MAX_TEXT) if bound is not None and bound.tenant else None,
        kind=bound.kind or None if bound is not None else None,
        elapsed_us=round(elapsed_s * 1e6),
        patterns=_names(request.patterns) if request.patterns else UNSET,
        malformed=UNSET if request.malformed is None else cut(request.malformed, MAX_TEXT),
        trace_id=UNSET if parent is None else parent.trace_id,
        span_id=UNSET if parent is None else parent.span_id,
        sample=sample,
    )


def moment(wall_s: float) -> str:
    """
    >>> moment(1_772_366_400.1239)
    '2026-03-01T12:00:00.123Z'
    """
    return f"{datetime.fromtimestamp(wall_s, UTC).isoformat(timespec='milliseconds').removesuffix('+00:00')}Z"


def _names(names: Sequence[str]) -> Names:
    shown = [cut(name, MAX_TEXT) for name in names[:MAX_NAMES]]
    if len(names) > MAX_NAMES:
        shown[-1] = f"(and {len(names) - MAX_NAMES + 1} more)"
    return shown


# --- the schema ---------------------------------------------------------------------


def schema(changes: Iterable[str]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of every line; `changes` are the events that are changes of state."""
    kinds: tuple[type, ...] = (Decision, Suppressed, LogDropped, Record, Change)
    refs, components = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    for name, component in components.items():
        component.pop("title", None)
        if name != Change.__name__:
            component["additionalProperties"] = False
    components[Change.__name__]["properties"]["event"]["enum"] = list(changes)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A line of Portcullis' decision log",
        "oneOf": list(refs),
        "$defs": components,
    }
