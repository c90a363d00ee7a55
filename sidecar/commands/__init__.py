"""The commands that talk to a running gate: one file per group, each loaded when it is used.

    reach       which gate, and who asks: options, environment, cli.yaml, the gate's document
    options     the options that all of them share, and the Gate that a command gets
    gate        asking: one answer, one change, all pages; ends the program with the reason
    arguments   what an argument must be: wrong usage is told before the gate is asked
    telling     changes, times and JSON as people and scripts read them
    list_files  address lists as files
    attack, address, key, override, reset, fleet, top, audit, explain    the commands

They decide nothing: the gate does, and its words are repeated.
"""
