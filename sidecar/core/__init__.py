"""The pure core: what is decided, never when or where.

Nothing here imports asyncio, time, os, redis or logging; time is an argument.
Start with `model` (the words), then `window` (the counters), `ledger` (what
this process holds), `policy` (what applies to a request) and `decide` (the order).
"""
