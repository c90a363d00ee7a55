"""Which rules concern a request, and on which counters it is charged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.addresses import subject_of
from sidecar.core.bound import Bound
from sidecar.core.charges import cost_of
from sidecar.core.ledger import Ledger
from sidecar.core.model import Cost, Filter, Match, Mode, Reason, Request
from sidecar.core.policy import Policy
from tests.doubles import limit, policy, request


def refused(rules: Policy, asker: Request) -> Reason | None:
    refusal = rules.bind(asker).refusal
    return refusal.reason if refusal else None


def names(bound: Bound) -> list[str]:
    """The counters charged, as the store will know them."""
    return [counter.key.decode() for counter, _ in bound.charges]


# --- lists --------------------------------------------------------------------


def test_it_denies_an_address_whatever_other_lists_say() -> None:
    rules = policy(deny=["192.0.2.0/24"], allow=["192.0.2.1"], exempt=["192.0.2.1"])

    assert refused(rules, request("192.0.2.1")) is Reason.ADDRESS_DENIED
    assert refused(rules, request("192.0.3.1")) is None


def test_it_sees_the_whole_address_in_lists_and_only_the_prefix_in_limits() -> None:
    rules = policy([limit()], deny=["2001:db8::1"], ipv6_prefix=64)

    assert refused(rules, request("2001:db8::1")) is Reason.ADDRESS_DENIED
    assert names(rules.bind(request("2001:db8::2"))) == ["pc:{0}:per-ip:10000/167:2001:db8::/64"]


def test_it_charges_nobody_who_is_exempt() -> None:
    bound = policy([limit()], exempt=["192.0.2.0/24"]).bind(request("192.0.2.1"))

    assert (bound.reason, bound.charges) == (Reason.EXEMPT, ())


def test_it_finds_an_unknown_address_in_no_list() -> None:
    everybody = ["0.0.0.0/0", "::/0"]
    rules = policy(
        [limit()],
        [Filter("office", require_allow=True, match=Match(paths=("/admin",)))],
        deny=everybody,
        allow=everybody,
        exempt=everybody,
        passes=everybody,
    )

    bound = rules.bind(request("unknown"))

    assert (bound.refusal, bound.passes, bound.reason) == (None, False, Reason.OK)
    assert names(bound) == ["pc:{0}:per-ip:10000/167:unknown"]
    assert refused(rules, request("unknown", path="/admin")) is Reason.ADDRESS_NOT_ALLOWED


# --- filters ------------------------------------------------------------------

FILTERS: Final = {
    "office": Filter("office", require_allow=True),
    "host": Filter("host", deny=True, match=Match(hosts=("*.internal",))),
    "path": Filter("path", deny=True, match=Match(paths=("/.git/*",))),
    "methods": Filter("methods", methods=("GET", "HEAD")),
    "json": Filter("json", content_types=("application/json", "image/*")),
    "small": Filter("small", max_body=1_000),
    "tls": Filter("tls", tls_min="1.2"),
}


@pytest.mark.parametrize(
    ("rule", "asker", "reason"),
    [
        ("office", request("192.0.2.1"), None),
        ("office", request("192.0.3.1"), Reason.ADDRESS_NOT_ALLOWED),
        ("host", request(host="db.internal"), Reason.HOST),
        ("host", request(host="internal"), None),
        ("path", request(path="/.git"), Reason.PATH),
        ("path", request(path="/.git/config"), Reason.PATH),
        ("path", request(path="/.gitignore"), None),
        ("methods", request(method="HEAD"), None),
        ("methods", request(method="POST"), Reason.METHOD),
        ("methods", request(method="get"), Reason.METHOD),
        ("json", request(), None),
        ("json", request(method="POST"), Reason.CONTENT_TYPE),
        ("json", request(method="POST", content_length=0), None),
        ("json", request(method="POST", content_length=1), Reason.CONTENT_TYPE),
        ("json", request(content_type=b"text/plain"), Reason.CONTENT_TYPE),
        ("json", request(method="POST", content_type=b"application/json"), None),
        ("json", request(method="POST", content_type=b"Application/JSON ; charset=utf-8"), None),
        ("json", request(method="POST", content_type=b"application/jsonp"), Reason.CONTENT_TYPE),
        ("json", request(method="POST", content_type=b"image/png"), None),
        ("json", request(method="POST", content_type=b"image"), Reason.CONTENT_TYPE),
        ("json", request(method="POST", content_type=b""), Reason.CONTENT_TYPE),
        ("small", request(method="POST", content_length=1_000), None),
        ("small", request(method="POST", content_length=1_001), Reason.BODY_SIZE),
        ("small", request(method="POST"), Reason.BODY_SIZE),
        ("small", request(), None),
        ("small", request(content_length=1_001), Reason.BODY_SIZE),
        ("small", request(content_type=b"text/plain"), Reason.BODY_SIZE),
        ("tls", request(tls="1.2"), None),
        ("tls", request(tls="1.3"), None),
        ("tls", request(tls="1.1"), Reason.TLS_VERSION),
        ("tls", request(), Reason.TLS_VERSION),
    ],
)
def test_it_refuses_what_a_filter_does_not_let_through(
    rule: str, asker: Request, reason: Reason | None
) -> None:
    assert refused(policy(filters=[FILTERS[rule]], allow=["192.0.2.0/24"]), asker) is reason


def test_it_says_which_methods_it_would_let_through() -> None:
    refusal = policy(filters=[FILTERS["methods"]]).bind(request(method="POST")).refusal

    assert refusal is not None
    assert (refusal.status, refusal.methods, refusal.rule) == (405, ("GET", "HEAD"), "methods")


@given(
    order=st.permutations(list(FILTERS)),
    shadows=st.sets(st.sampled_from(list(FILTERS))),
)
def test_it_gives_the_first_reason_in_the_order_of_the_decision(order: list[str], shadows: set[str]) -> None:
    rules = policy(
        filters=[
            Filter(
                name,
                match=FILTERS[name].match,
                mode=Mode.SHADOW if name in shadows else Mode.ENFORCE,
                require_allow=FILTERS[name].require_allow,
                deny=FILTERS[name].deny,
                methods=FILTERS[name].methods,
                content_types=FILTERS[name].content_types,
                max_body=FILTERS[name].max_body,
                tls_min=FILTERS[name].tls_min,
            )
            for name in order
        ],
    )
    everything_wrong = request(
        "192.0.3.1", method="POST", host="db.internal", path="/.git/config", content_length=5_000
    )

    bound = rules.bind(everything_wrong)

    enforced = [name for name in FILTERS if name not in shadows]  # FILTERS is in the order of the reasons
    assert (bound.refusal.rule if bound.refusal else None) == (enforced[0] if enforced else None)
    assert set(bound.shadow) == shadows


def test_it_never_refuses_by_a_shadow_filter_and_says_what_it_would_have_done() -> None:
    rules = policy(filters=[Filter("watch", deny=True, mode=Mode.SHADOW)])

    bound = rules.bind(request())

    assert (bound.refusal, bound.shadow) == (None, ("watch",))


def test_it_refuses_by_default_what_no_filter_opens() -> None:
    rules = policy(
        filters=[
            Filter("open", match=Match(paths=("/public/*",))),
            Filter("watch", match=Match(paths=("/seen/*",)), mode=Mode.SHADOW),
        ],
        default_allow=False,
    )

    assert refused(rules, request(path="/public/x")) is None
    assert refused(rules, request(path="/")) is Reason.NOT_OPENED
    assert refused(rules, request(path="/seen/x")) is Reason.NOT_OPENED


def test_it_judges_nothing_of_what_cannot_be_read() -> None:
    bound = policy([limit()], deny=["203.0.113.9"]).bind(request(malformed="two hosts"))

    assert bound.malformed
    assert bound.refusal is not None
    assert bound.refusal.reason is Reason.MALFORMED
    assert bound.charges == ()


# --- limits -------------------------------------------------------------------


def test_it_charges_every_limit_that_matches_in_the_order_of_the_policy() -> None:
    rules = policy(
        [
            limit("login", per=["ip", "route"], match=Match(methods=("POST",), paths=("/login",))),
            limit("per-ip"),
            limit("watch", mode=Mode.SHADOW),
        ]
    )

    bound = rules.bind(request("192.0.2.1", method="POST", path="/login"))

    assert names(bound) == ["pc:{0}:login:10000/167:192.0.2.1|/login", "pc:{0}:per-ip:10000/167:192.0.2.1"]
    assert [counter.limit.name for counter, _ in bound.shadow_charges] == ["watch"]
    assert [of.name for of in bound.terms.limits] == ["login", "per-ip"]
    assert names(rules.bind(request("192.0.2.1"))) == ["pc:{0}:per-ip:10000/167:192.0.2.1"]


@pytest.mark.parametrize(
    ("per", "asker", "subject"),
    [
        (["ip"], request("192.0.2.1"), "192.0.2.1"),
        (["ip"], request("2001:db8:0:1::9"), "2001:db8:0:1::/64"),
        (["ip"], request("unknown"), "unknown"),
        (["global"], request(), "*"),
        (["host"], request(host="shop.example"), "shop.example"),
        (["host", "ip"], request("192.0.2.1", host="a|b"), "a%7Cb|192.0.2.1"),
        (["host"], request(host=""), ""),
        (["route"], request(path="/anything"), "*"),
        (["header:x-tenant"], request(headers={b"x-tenant": b"acme"}), "acme"),
        (["header:x-tenant"], request(headers={b"x-tenant": "größe 1".encode()}), "gr%C3%B6%C3%9Fe%201"),
        (["header:x-tenant"], request(), None),
        (["header:x-tenant"], request(headers={b"x-tenant": b""}), None),
        (["key"], request(), None),
        (["ip", "key"], request(), None),
        (["tenant"], request(key=b"k"), None),
    ],
)
def test_it_names_a_counter_after_its_subject(per: list[str], asker: Request, subject: str | None) -> None:
    found = names(policy([limit("l", per=per)]).bind(asker))

    assert found == ([] if subject is None else [f"pc:{{0}}:l:10000/167:{subject}"])


def test_it_counts_addresses_by_their_network() -> None:
    rules = policy([limit()], ipv6_prefix=48)

    same = [names(rules.bind(request(f"2001:db8:1:{at:x}::1"))) for at in range(9)]

    assert same == [["pc:{0}:per-ip:10000/167:2001:db8:1::/48"]] * 9
    assert subject_of("2001:db8:1:2::1", 48) == "2001:db8:1::/48"


def test_it_charges_the_same_counter_for_the_same_subject() -> None:
    rules = policy([limit()])

    (one, _), (other, _) = (rules.bind(request(path=path)).charges[0] for path in ("/a", "/b"))

    assert one is other


def test_it_makes_no_counters_of_paths() -> None:
    rules = policy([limit("l", per=["route"], match=Match(paths=("/a/*", "*")))])

    for at in range(100):
        rules.bind(request(path=f"/a/{at}"))
        rules.bind(request(path=f"/{at}"))

    assert rules.counters() == 2


def test_it_spreads_counters_over_shards_by_their_subject() -> None:
    rules = policy([limit("a"), limit("b", 5)], ledger=Ledger(shards=8))

    bounds = [rules.bind(request(f"192.0.2.{at}")) for at in range(64)]

    shards = [[counter.shard for counter, _ in bound.charges] for bound in bounds]
    assert all(one == other for one, other in shards)
    assert {one for one, _ in shards} == set(range(8))
    assert all(
        f"{{{at}}}" in name for bound, (at, _) in zip(bounds, shards, strict=True) for name in names(bound)
    )


def test_it_stays_bounded_under_a_flood_of_addresses() -> None:
    rules = policy([limit("a"), limit("b", per=["host", "ip"])], ledger=Ledger(most=100))

    for at in range(3_000):
        rules.bind(request(f"10.0.{at % 250}.{at // 250}", host=f"h{at}"))

    assert rules.counters() <= 100


# --- costs --------------------------------------------------------------------

BY_HEADER: Final = Cost(header=b"x-cost", most=50)


@pytest.mark.parametrize(
    ("cost", "said", "asked", "permits"),
    [
        (Cost(), None, None, 1),
        (Cost(), None, 7, 7),
        (Cost(5), None, None, 5),
        (Cost(5), None, 7, 5),
        (BY_HEADER, None, None, 1),
        (BY_HEADER, None, 7, 7),
        (BY_HEADER, b"3", None, 3),
        (BY_HEADER, b"3", 7, 3),
        (BY_HEADER, b"50", None, 50),
        (BY_HEADER, b"51", None, 50),
        (BY_HEADER, b"999999999", None, 50),
        (BY_HEADER, b"9999999999999", None, 50),
        (BY_HEADER, b"0", None, 1),
        (BY_HEADER, b"-1", None, 50),
        (BY_HEADER, b"1.5", None, 50),
        (BY_HEADER, b"", None, 50),
        (BY_HEADER, b" 3", None, 50),
        (BY_HEADER, b"3, 3", None, 50),
        (BY_HEADER, "³".encode(), None, 50),
        (BY_HEADER, b"0x10", None, 50),
    ],
)
def test_it_takes_what_the_limit_or_the_proxy_says(
    cost: Cost, said: bytes | None, asked: int | None, permits: int
) -> None:
    asker = request(headers={} if said is None else {b"x-cost": said}, cost=asked)

    assert cost_of(limit(permits=100, cost=cost), asker) == permits


def test_it_reads_the_cost_of_each_request_and_not_of_the_one_before() -> None:
    rules = policy([limit(permits=100, cost=BY_HEADER)])

    costs = [
        rules.bind(request(headers={b"x-cost": said})).charges[0][1] for said in (b"3", b"9", b"3", b"junk")
    ]

    assert costs == [3, 9, 3, 50]


# --- what it remembers changes nothing ----------------------------------------

ASKERS = st.builds(
    request,
    address=st.sampled_from(["192.0.2.1", "192.0.2.9", "2001:db8::1", "2001:db8::2", "unknown"]),
    method=st.sampled_from(["GET", "POST"]),
    host=st.sampled_from(["a.example", "b.example"]),
    path=st.sampled_from(["/", "/login", "/x/y"]),
    headers=st.dictionaries(
        st.sampled_from([b"x-cost", b"x-tenant", b"x-other"]), st.sampled_from([b"", b"2", b"7", b"t"])
    ),
    content_type=st.sampled_from([None, b"text/plain", b"application/json"]),
    content_length=st.sampled_from([None, 0, 10, 5_000]),
    tls=st.sampled_from([None, "1.1", "1.3"]),
    key=st.sampled_from([None, b"", b"k1", b"k2"]),
    malformed=st.sampled_from([None, None, None, "two hosts"]),
    cost=st.sampled_from([None, None, 1, 3]),
)
RULES: Final[dict[str, Callable[[], Policy]]] = {
    "limits by address": lambda: policy([limit("a"), limit("b", 3)]),
    "limits of all kinds": lambda: policy(
        [
            limit("key", per=["key"], cost=Cost(2)),
            limit("tenant", per=["header:x-tenant", "route"], match=Match(paths=("/x/*", "*"))),
            limit("cost", 90, per=["ip"], cost=BY_HEADER, mode=Mode.SHADOW),
        ],
        exempt=["192.0.2.9"],
    ),
    "filters of all kinds": lambda: policy(
        [limit("a", match=Match(hosts=("a.example",)))],
        [*FILTERS.values()],
        allow=["192.0.2.0/24"],
        deny=["2001:db8::2"],
        passes=["192.0.2.9"],
    ),
}


def meaning(bound: Bound) -> tuple[object, ...]:
    refusal = bound.refusal
    return (
        refusal and (refusal.reason, refusal.rule, refusal.methods, refusal.shadow, refusal.key_id),
        bound.malformed,
        bound.passes,
        [(counter.key, counter.permits, cost) for counter, cost in bound.charges],
        [(counter.key, counter.permits, cost) for counter, cost in bound.shadow_charges],
        bound.shadow,
        bound.reason,
        bound.terms,
        bound.key_id,
    )


@pytest.mark.parametrize("rules", RULES)
@given(askers=st.lists(ASKERS, max_size=25))
def test_it_finds_the_same_for_a_request_that_it_remembers(rules: str, askers: list[Request]) -> None:
    remembering = RULES[rules]()

    found = [meaning(remembering.bind(asker)) for asker in askers]
    afresh = [meaning(RULES[rules]().bind(asker)) for asker in askers]

    assert found == afresh


@pytest.mark.parametrize(
    ("rule", "fine", "wrong"),
    [
        ("json", request(content_type=b"application/json"), request(content_type=b"text/plain")),
        ("small", request(content_length=9), request(content_length=9_000)),
        ("tls", request(tls="1.3"), request(tls="1.1")),
    ],
)
def test_it_judges_every_datum_afresh(rule: str, fine: Request, wrong: Request) -> None:
    rules = policy(filters=[FILTERS[rule]])

    found = [refused(rules, asker) is None for asker in (fine, wrong, fine, wrong)]

    assert found == [True, False, True, False]


def test_it_leaves_what_it_found_with_the_request() -> None:
    rules, asker = policy([limit()]), request()

    assert asker.bound is None
    assert rules.bind(asker) is asker.bound
