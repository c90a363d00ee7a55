"""Verdicts that need the store, against nginx `return 204` and against nginx's Lua module with the same server.

Two counters for each decision, 100 000 clients drawn at random, 64 connections. Leases are off, so that no decision
escapes the store; with so many clients they would hardly matter. The Lua script asks the same Valkey over
the same kind of socket, one round trip for each request, and keeps the cheaper promise: fixed windows.

Valkey shares the other core with the load generator.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from bench.cast import (
    GENEROUS_MS,
    NEVER_LEASED,
    StoreUse,
    floor,
    gate,
    many_clients,
    module_path,
    nginx,
    store_use,
    target,
    valkey,
)
from bench.load import Load, Missing, Press, Target, pressing
from bench.rounds import Effort, alternate
from bench.rows import Findings, Goal, Row
from tests.servers import free_port
from tests.stores import StoreServer

FLOOR_GOAL: Final = Goal(0.25)
LUA_GOAL: Final = Goal(1.0)
CALLS_GOAL: Final = Goal(0.05, most=True)

GATE, LUA = "gate", "Lua"
AGAINST_LUA: Final = "verdict with the store, against nginx's Lua module"

_SCRIPTS: Final = Path(__file__).resolve().parent / "lua"


def measure(effort: Effort) -> Findings:
    found = Findings()
    with ExitStack() as ends:
        store = ends.enter_context(valkey())
        client = ends.enter_context(store.client())
        least = ends.enter_context(floor())
        running = ends.enter_context(gate(NEVER_LEASED, store=store, deadline_ms=GENEROUS_MS))
        uses: list[StoreUse] = []
        heads = many_clients()
        ask_gate = pressing(target(running), heads, effort.seconds)

        def watched() -> Load:
            before = store_use(client)
            load = ask_gate()
            uses.append(store_use(client).since(before))
            return load

        presses: dict[str, Press] = {GATE: watched}
        missing = ""
        try:
            presses[LUA] = pressing(ends.enter_context(_lua(store)), heads, effort.seconds)
        except Missing as exc:
            missing = str(exc)
        taken = alternate(pressing(least, heads, effort.seconds), presses, effort)

        found.rows.append(taken.row("verdict with the store, against `return 204`", GATE, FLOOR_GOAL))
        if missing:
            found.rows.append(Row(AGAINST_LUA, None, goal=LUA_GOAL, note=f"needs {missing}"))
        else:
            ratio, by_cpu = taken.against(GATE, LUA), taken.cpu_us(LUA) / taken.cpu_us(GATE)
            lua = taken.latency(LUA)
            found.rows.append(
                Row(
                    AGAINST_LUA,
                    ratio,
                    goal=LUA_GOAL,
                    latency=lua,
                    cpu_us=taken.cpu_us(LUA),
                    note=f"latency and CPU are Lua's, {taken.rate(LUA) / 1000:.1f}k/s; by CPU {by_cpu:.2f}",
                    raw=taken.raw(LUA),
                )
            )
        decisions = taken.answers(GATE)
        calls, script_us = sum(use.calls for use in uses), sum(use.script_us for use in uses)
        counters = running.metric("portcullis_store_batch_size_sum")
        batches = running.metric("portcullis_store_batch_size_count")
        outage = running.metric("portcullis_decisions_total", source="outage")
        found.rows.append(
            Row(
                "store calls per decision, 100 000 clients",
                calls / decisions,
                goal=CALLS_GOAL,
                note=f"{counters / batches:.0f} counters a call, {script_us / counters:.1f} µs of server time each",
                raw={
                    "calls": calls,
                    "decisions": decisions,
                    "script_us": script_us,
                    "store_cpu_s": sum(use.cpu_s for use in uses),
                    "counters_per_call": counters / batches,
                    "outage_decisions": outage,
                },
            )
        )
        assert not outage, f"{outage:.0f} decisions were the outage policy's, not the store's"
    return found


@contextmanager
def _lua(store: StoreServer) -> Iterator[Target]:
    """nginx that asks the store from Lua, on the core of the server under test. Raises Missing."""
    port = free_port()
    main = "".join(f"load_module {module_path(name)};" for name in ("ndk_http_module", "ngx_http_lua_module"))
    # Debian's own places, in case this LuaJIT was built with others.
    packages = f"{_SCRIPTS}/?.lua;/usr/share/lua/5.1/?.lua;;"
    server = f"""
        lua_package_path "{packages}";
        init_by_lua_block {{ limiter = require("two_windows") }}
        server {{
            listen 127.0.0.1:{port};
            access_log off;
            location / {{
                set $store "unix:{store.socket}";
                content_by_lua_block {{ limiter.answer() }}
            }}
        }}"""
    with nginx(server, port=port, main=main) as running:
        yield running
