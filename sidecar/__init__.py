"""Portcullis: a gate for HTTP traffic, asked by a reverse proxy about every request.

The map. Imports point inwards, from the top of this list to its end:

    cli, commands/, client   commands; they talk to a running gate through its admin API
    serve            composition root: configuration -> store, replica, planes, signals
    workers, worker  several processes that decide, and their parent
    replica          one process that decides, put together by assembly's parts
    admin/           the operator's plane: metrics, health, the API (aiohttp)
    public/          tokens for keys: OAuth 2.0 (aiohttp)
    fronts/          the proxies' plane: how each asks and is answered (uvloop, httptools)
    control/         what operators change at run time, and how replicas follow it
    gate             the spine: decide, wait for grants, decide again
    identity, jwks   who is who: what credentials are proved with, kept up to date
    store/           where replicas share counters: Redis, Valkey, memory
    config, document/  the document's schema -> frozen values
    metrics, exposition, decision_log   what an operator sees
    core/            PURE: model, policy, decide, ledger, window, addresses, paths, control

Start reading with `core.model`, then `gate`.
"""

from typing import Final

VERSION: Final = "0.1.0"
