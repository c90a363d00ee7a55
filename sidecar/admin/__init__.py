"""The admin plane: what operators, Prometheus and the kubelet ask, over aiohttp.

    operations   how an operation is declared; everything else follows from that
    frame        from a request to an operation and back
    openapi      the document, made from the declarations
    resources    all of them in one list; one file per resource (`attack`, `addresses`, `keys`, ...)
    app          the applications, who gets in, and how they are served; `tls` for that
    door         how many connections a plane holds, and who goes when there is no room
    tokens       who may ask, and as what; `token_file` for many of them
    problems     how a refusal is worded; `times`, `subjects`, `pages` how what resources share is written
    health       what needs no token

Nothing here decides about traffic, and nothing here runs on the check plane's path.
"""
