"""The document as it is written: YAML text, the schema, and every mistake with its place.

    yaml_text   text -> tree, none of YAML's surprises
    notations   one leaf: a duration, an endpoint, a pattern
    schema      which keys there are
    walk        tree + schema -> sections, and all problems at once
    rules       sections -> limits and filters

Start with `schema`. What the sections mean together, and which files they name, is `config`'s.
"""
