"""The admin plane: what operators, Prometheus and the kubelet ask, over aiohttp.

`app` puts the applications together and serves them; one file per resource (`health`, `explain`)
says what is answered; `tokens` knows who may ask, `problems` how a refusal is worded.

Nothing here decides about traffic, and nothing here runs on the check plane's path.
"""
