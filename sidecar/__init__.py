"""Portcullis: a gate for HTTP traffic, asked by a reverse proxy about every request.

The map. Imports point inwards, from the top of this list to its end:

    cli, __main__    commands; they talk to a running gate through its admin API
    serve            composition root: configuration -> store, replica, planes, signals
    replica          one process that decides, put together
    admin/           the operator's plane: metrics, health, explain (aiohttp)
    fronts/          the proxies' plane: how each asks and is answered (uvloop, httptools)
    control/         what replicas follow at run time
    gate             the spine: decide, wait for grants, decide again
    store/           where replicas share counters: Redis, Valkey, memory
    config, document/  the document's schema -> frozen values
    metrics, exposition, decision_log   what an operator sees
    core/            PURE: model, policy, decide, ledger, window, addresses, paths

Start reading with `core.model`, then `gate`.
"""

from typing import Final

VERSION: Final = "0.1.0"
