"""The public plane: tokens for keys, over OAuth 2.0 and aiohttp, on a listener of its own.

    app        the endpoints, and how their refusals are worded
    reading    what a request says: the form, the client's credential, where it comes from
    judging    the gate's own verdict about it, asked for at the check plane like any application does
    tokens     issued, looked into, taken back
    published  what everybody may know: the keys that verify, and where the endpoints are
    refusals   the errors of RFC 6749

Who may ask, from where and how often is decided by the gate alone: there is no second way to prove a secret
here, and none to count.
"""
