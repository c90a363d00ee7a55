"""The document as it is written: YAML text, the schema, and every mistake with its place.

    yaml_text             text -> tree, none of YAML's surprises
    notations             one leaf: a duration, an endpoint, a pattern
    credential_notations  one leaf about credentials: a scope, an issuer, an algorithm
    section               what sections are made of
    schema, credentials   which keys there are
    walk                  tree + schema -> sections, and all problems at once
    rules                 sections -> limits and filters
    registry              what of a document needs the registry

Start with `schema`. What the sections mean together, and which files they name, is `config`'s.
"""
