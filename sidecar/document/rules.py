"""The rules of a document: sections into limits and filters, and what rules must satisfy together.

Does not look at requests: what a rule means for one is `policy`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sidecar.core.model import Cost, Filter, Limit, Match, Outage
from sidecar.core.window import slice_for
from sidecar.document.schema import CostSection, Document, FilterSection, LimitSection, MatchSection
from sidecar.document.walk import Problem, shown
from sidecar.document.yaml_text import Tree


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
        lease=section.lease == "auto" and section.block_for is None,
        plans=section.plans,
    )


def filter_of(section: FilterSection) -> Filter:
    """The filter that a section describes."""
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


def _match(section: MatchSection) -> Match:
    return Match(hosts=section.hosts, methods=section.methods, paths=section.paths)
