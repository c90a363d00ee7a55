"""How fast it is, as ratios: `python -m bench` asks every question and prints one table.

    __main__                                             which questions, the table, the files
    memory, auth_request, with_store, credentials        load from wrk against real servers, beside a floor
    latency, pace                                        a constant rate, measured from when each request was due
    batches, prefixes, start, growth, micro, patterns    costs of the parts, and how they grow
    cast                                                 who plays: the gate, nginx, Valkey, each bound to its core
    load, rounds, processes, machine                     how it is measured
    rows, plot                                           how it is told

The floor (mostly nginx answering `return 204`) runs between the rounds of what is measured, so that a machine that is
slow now is slow for both. The servers are those of `tests`, started in the same way.

Nothing here judges correctness beyond noticing that the answers were not those that were asked for.
"""
