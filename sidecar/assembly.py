"""From a configuration to what decides by it: address lists, fronts, the policy, the metrics' layout.

Each part is a function of the configuration. Who puts them to work is `replica`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, cast

from sidecar.config import Config
from sidecar.core.addresses import AddressSet
from sidecar.core.control import Control
from sidecar.core.ledger import Ledger
from sidecar.core.model import Mode
from sidecar.core.objections import IN_QUERY
from sidecar.core.policy import Policy
from sidecar.core.query_names import CredentialNames
from sidecar.decision_log import DecisionLog
from sidecar.fronts import Front, credentials
from sidecar.fronts.api import ApiFront
from sidecar.fronts.credentials import CredentialReader
from sidecar.fronts.envoy import EnvoyFront
from sidecar.fronts.forward import ForwardFront
from sidecar.fronts.heads import HeadTable
from sidecar.fronts.nginx import NginxFront
from sidecar.metrics import Layout


class Lists(NamedTuple):
    """The configuration's address lists, built: what takes long when they are long."""

    deny: AddressSet
    allow: AddressSet
    exempt: AddressSet
    passes: AddressSet
    tenants: Mapping[str, AddressSet]


def policy_of(config: Config, lists: Lists, *, control: Control, ledger: Ledger, hash_key: bytes) -> Policy:
    """The configuration's rules under a control state, compiled, with counters of their own in `ledger`."""
    attack, credentials = config.attack_mode, config.credentials
    return Policy(
        ledger=ledger,
        control=control,
        limits=config.limits,
        filters=config.filters,
        deny=lists.deny,
        allow=lists.allow,
        exempt=lists.exempt,
        passes=lists.passes,
        attack_status=attack.status,
        attack_retry_after_s=attack.retry_after_s,
        default_allow=config.default_allow,
        ipv6_prefix=config.ipv6_prefix,
        prefix=config.store.prefix,
        hash_key=hash_key,
        hashed_headers={*credentials.headers, *reader_of(config).names},
        registry=credentials.mode == "registry",
        tenants=lists.tenants,
        query_names=CredentialNames(credentials.query.names),
        query_mode=credentials.query.mode,
    )


def layout_of(config: Config, before: Layout | None = None) -> Layout:
    """Where this configuration's limits and shadow rules are counted."""
    limits = [limit.name for limit in config.limits]
    shadows = [limit.name for limit in config.limits if limit.mode is Mode.SHADOW]
    shadows += [rule.name for rule in config.filters if rule.mode is Mode.SHADOW]
    if config.credentials.query.mode is Mode.SHADOW:
        shadows.append(IN_QUERY)
    return Layout(limits, shadows) if before is None else before.extended(limits, shadows)


def refusals_per_s_of(config: Config) -> float:
    """Lines for refusals that one replica of this gate may write a second: its share."""
    return config.refusals_per_s / config.workers


def tell(log: DecisionLog, config: Config) -> None:
    """Let one replica's log tell what this configuration wants told: its share."""
    log.set_rate(refusals_per_s_of(config))
    log.set_sample(config.log.sample, config.log.allows_per_s / config.workers)
    log.hide(config.log.hide)


def lists_of(config: Config) -> Lists:
    """The configuration's address lists; blocks for some 4 s per million of networks."""
    deny, allow, exempt, passes = map(AddressSet, networks_of(config))
    return Lists(deny, allow, exempt, passes, tenants_of(config))


def tenants_of(config: Config) -> dict[str, AddressSet]:
    """The networks that each tenant's keys work from."""
    return {tenant: AddressSet(cidrs) for tenant, cidrs in config.credentials.tenants.items()}


def networks_of(config: Config) -> tuple[tuple[str, ...], ...]:
    """The networks of each of `Lists`."""
    addresses = config.addresses
    return addresses.deny, addresses.allow, addresses.exempt, config.attack_mode.passes


def reader_of(config: Config) -> CredentialReader:
    """What this configuration takes for a credential."""
    said = config.credentials
    match said.mode:
        case "none":
            return credentials.nobody()
        case "registry":
            return credentials.registry(
                headers=said.headers, bearer=said.bearer, server=said.server, client=said.client
            )
        case _:
            return credentials.opaque(said.headers)


def heads_of(config: Config) -> HeadTable:
    """Where heads that come again are remembered, but for those that carry a credential."""
    return HeadTable(credential_headers={*config.credentials.headers, *reader_of(config).names})


def fronts_of(config: Config) -> list[Front]:
    """Every front, with what this configuration tells it."""
    reader = reader_of(config)
    trusted = AddressSet(config.trusted_proxies)
    legacy = config.legacy_headers
    envoy_address = cast("Literal['real_ip', 'forwarded']", config.fronts.envoy_address)
    return [
        NginxFront(credentials=reader, legacy_headers=legacy),
        EnvoyFront(
            credentials=reader,
            trusted=trusted,
            envoy_address=envoy_address,
            legacy_headers=legacy,
        ),
        ForwardFront(credentials=reader, trusted=trusted, legacy_headers=legacy),
        ApiFront(credentials=reader, legacy_headers=legacy),
    ]
