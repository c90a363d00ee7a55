"""The rules of a document: sections into limits and filters, and what rules must satisfy together.

Does not look at requests: what a rule means for one is `policy`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sidecar.core.model import Cost, Counts, Detecting, Filter, Limit, Match, Outage, Severity, Suspicion
from sidecar.core.starter_patterns import STARTER
from sidecar.core.window import slice_for
from sidecar.document.schema import (
    DETECTING_HEADERS,
    DETECTING_THRESHOLD,
    CostSection,
    Document,
    FilterSection,
    LimitSection,
    MatchSection,
    PatternSection,
)
from sidecar.document.walk import Problem, did_you_mean, shown
from sidecar.document.yaml_text import Tree, child_path


def limit_of(section: LimitSection, outage: Outage) -> Limit:
    """The limit that a section describes; `outage` is what the store's section says for all."""
    header = section.cost.header if isinstance(section.cost, CostSection) else section.cost
    fixed = header if isinstance(header, int) else 1
    return Limit(
        name=section.name,
        per=section.per,
        permits=section.permits,
        window_ms=section.window,
        slice_ms=slice_for(section.window, section.slices),
        match=_match(section.match),
        mode=section.mode,
        outage=section.outage or outage,
        cost=Cost(fixed=fixed, header=b"" if isinstance(header, int) else header, most=section.most_cost()),
        block_ms=section.block_for or 0,
        # A block must be seen at once by all replicas: permits in hand elsewhere would outlive it.
        lease=section.lease == "auto" and section.block_for is None and section.counts is Counts.REQUESTS,
        plans=section.plans,
        counts=section.counts,
    )


def filter_of(section: FilterSection, patterns: Mapping[str, Sequence[PatternSection]]) -> Filter:
    """The filter that a section describes; `patterns` are the operator's own sets."""
    return Filter(
        name=section.name,
        match=_match(section.match),
        mode=section.mode,
        require_allow=section.require == "allow",
        deny=section.deny,
        methods=section.methods,
        content_types=section.content_types,
        max_body=section.max_body,
        tls_min=section.tls_min,
        kinds=section.kinds,
        scopes=section.scopes,
        origins=section.origins,
        detecting=_detecting(section, patterns) if section.patterns else None,
    )


def _detecting(section: FilterSection, patterns: Mapping[str, Sequence[PatternSection]]) -> Detecting:
    suspicions: list[Suspicion] = []
    for name in section.patterns:
        if name in STARTER:
            suspicions += STARTER[name]
        else:  # a set that is not known is a problem of its own
            suspicions += [_suspicion(name, pattern) for pattern in patterns.get(name, ())]
    return Detecting(
        suspicions=tuple(suspicions),
        threshold=DETECTING_THRESHOLD if section.threshold is None else section.threshold,
        headers=DETECTING_HEADERS if section.headers is None else tuple(dict.fromkeys(section.headers)),
    )


def _suspicion(set_name: str, section: PatternSection) -> Suspicion:
    return Suspicion(
        name=f"{set_name}/{section.name}",
        expression=section.pattern,
        places=section.places,
        severity=Severity[section.severity.upper()],
    )


def same_names(tree: Tree) -> Iterator[Problem]:
    """Rules share one set of names: metrics and logs tell of a rule by its name alone."""
    first: dict[str, str] = {}
    for kind in ("limits", "filters"):
        rules = tree.get(kind) if isinstance(tree, dict) else None
        for at, rule in enumerate(rules if isinstance(rules, list) else []):
            name = rule.get("name") if isinstance(rule, dict) else None
            if not isinstance(name, str):
                continue
            if name in first:
                message = f"{shown(name)}: {first[name]} has this name already, and no two rules share one"
                yield Problem(f"{kind}[{at}].name", message)
            first.setdefault(name, f"{kind}[{at}]")


def filters_without_demand(document: Document, problems: Sequence[Problem]) -> Iterator[Problem]:
    """Filters that no request could fail, where passing one opens nothing."""
    # A section with a problem is not in the document as it was written: then there is nothing to say.
    if any(problem.path.startswith(("filters", "default")) for problem in problems):
        return
    for at, section in enumerate(document.filters):
        if document.default == "allow" and not section.demands():
            message = "demands nothing: add a demand; it opens paths only under `default: deny`"
            yield Problem(f"filters[{at}]", message)


def pattern_sets(tree: Tree) -> Iterator[Problem]:
    """Sets of patterns that a filter names and that do not exist, and names that are taken."""
    sets = tree.get("patterns") if isinstance(tree, dict) else None
    own = sets if isinstance(sets, dict) else {}
    for name, patterns in own.items():
        place = child_path("patterns", name)
        if name in STARTER:
            yield Problem(place, "a set that the gate brings along has this name: take another")
        places: dict[str, int] = {}
        for at, pattern in enumerate(patterns if isinstance(patterns, list) else []):
            called = pattern.get("name") if isinstance(pattern, dict) else None
            if isinstance(called, str) and places.setdefault(called, at) != at:
                message = f"{shown(called)}: {place}[{places[called]}] has this name already: take another"
                yield Problem(f"{place}[{at}].name", message)
    filters = tree.get("filters") if isinstance(tree, dict) else None
    known = [*STARTER, *own]
    for at, rule in enumerate(filters if isinstance(filters, list) else []):
        named = rule.get("patterns") if isinstance(rule, dict) else None
        for number, wanted in enumerate(named if isinstance(named, list) else []):
            if isinstance(wanted, str) and wanted not in known:
                message = f"{shown(wanted)}: there is no such set: {did_you_mean(wanted, known)}"
                yield Problem(f"filters[{at}].patterns[{number}]", message)


def _match(section: MatchSection) -> Match:
    return Match(
        hosts=section.hosts,
        methods=section.methods,
        paths=section.paths,
        kinds=section.kinds,
        plans=section.plans,
        scopes=section.scopes,
    )
