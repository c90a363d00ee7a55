"""The starter's patterns for SQL and MongoDB: text that changes the query into which it is pasted.

Rows as in `starter_patterns`, which makes the set of them.
"""

from __future__ import annotations

from typing import Final

from .model import Place, Severity

Row = tuple[str, str, tuple[Place, ...], Severity]
"""Name, expression, places, severity."""

_VALUES: Final = (Place.VALUES, Place.PATH)
_CRITICAL, _ERROR, _WARNING, _NOTICE = Severity

# What SQL skips between words: blanks of all kinds, comments of a word or none, and the frame of a MySQL comment that
# is run. Longer comments would have each pattern remember that it is inside one, and these states multiply.
_BLANK: Final = r"(?:[\s\x00\x0b]|/\*[!*\w]*|\*/|(?:--|#)\w*\n)"
_GAP: Final = _BLANK + "+"
_MAY: Final = _BLANK + "*"
_OPENS: Final = rf"(?:{_BLANK}|\()*"
_CLOSES: Final = rf"(?:{_BLANK}|\))*"
_OR: Final = r"(?:\bx?or|\band|\bnot|\bhaving|\bwhere|\|\||&&|['\")\d]x?or|['\")\d]and)"
_IS: Final = r"(?:<=>|[<>!=]=?|<>|\blike\b|\brlike\b|\bregexp\b)"

SQL: Final[tuple[Row, ...]] = (
    (
        "union-select",
        (
            rf"(?i)(?:\b|\d)union{_GAP}(?:all{_GAP}|distinct{_GAP})?{_OPENS}select{_OPENS}"
            rf"(?:\d|null\b|@@|'|\"|[\w.]+(?:\(|{_MAY},|{_GAP}from\b))"
        ),
        _VALUES,
        _CRITICAL,
    ),
    ("union-select-odd-blanks", r"(?i)union\xa0+(?:all\xa0+)?select\b", _VALUES, _CRITICAL),
    ("union-select-words", rf"(?i)(?:\b|\d)union{_GAP}(?:all{_GAP})?select\b", _VALUES, _NOTICE),
    (
        "numbers-compared",
        rf"(?i){_OR}{_OPENS}(?:not{_GAP})?['\"]?\d+['\"]?{_CLOSES}{_IS}{_OPENS}['\"]?\d",
        _VALUES,
        _CRITICAL,
    ),
    (
        "number-among",
        rf"(?i){_OR}{_OPENS}\d+{_GAP}(?:in{_MAY}\(|between{_GAP}\d+{_GAP}and\b|is{_GAP}(?:not{_GAP})?null)",
        _VALUES,
        _CRITICAL,
    ),
    (
        "strings-compared",
        rf"(?i)['\"]{_CLOSES}(?:x?or|and|having|like|\|\||&&){_OPENS}['\"]\w*['\"]{_CLOSES}{_IS}",
        _VALUES,
        _CRITICAL,
    ),
    (
        "strings-compared-after-word",
        rf"(?i){_OR}{_OPENS}n?['\"]+\w*['\"]+{_MAY}(?:{_IS}|in{_MAY}\(){_OPENS}n?['\"]",
        _VALUES,
        _CRITICAL,
    ),
    (
        "letter-compared-to-itself",
        rf"(?i)\bor{_OPENS}(?:a{_MAY}={_MAY}a|x{_MAY}={_MAY}x)(?:\W|$)",
        _VALUES,
        _CRITICAL,
    ),
    ("or-quote-and-end", rf"(?i)\w['\"]{_CLOSES}or{_GAP}['\"](?:&|$)", _VALUES, _CRITICAL),
    ("or-empty-string", rf"(?i)=['\"]{_CLOSES}or{_GAP}(?:''|\"\")", _VALUES, _CRITICAL),
    ("or-number-and-end", rf"(?i)\bor{_OPENS}(?:\d+|true){_MAY}(?:--|#|/\*)", _VALUES, _CRITICAL),
    (
        "statement-of-variables",
        rf"(?i)\bdeclare{_GAP}@\w+{_GAP}n?varchar|\bexec(?:ute)?{_MAY}\({_MAY}@\w|\bexecute{_GAP}immediate{_GAP}['\"]",
        _VALUES,
        _CRITICAL,
    ),
    (
        "quote-then-condition",
        (
            rf"(?i)['\"]{_CLOSES}(?:x?or|and|\|\||&&|where){_OPENS}(?:not{_GAP})?(?:true\b|exists{_MAY}\(|"
            rf"[\w.]+{_GAP}(?:like{_GAP}['\"]|is{_GAP}(?:not{_GAP})?null)|select\b)"
        ),
        _VALUES,
        _CRITICAL,
    ),
    ("quote-then-like", rf"(?i)\d['\"]{_GAP}(?:r?like|regexp){_GAP}['\"]", _VALUES, _CRITICAL),
    (
        "quote-then-end",
        r"['\"]\)*[\s\x0b;]*(?:--[\s-]*|#|/\*)(?:&|$)",
        _VALUES,
        _CRITICAL,
    ),
    ("only-quotes", r"=['\"](?:[-=+*^|&]{1,2}|=['\"]{2}x?or)['\"](?:&|$)", _VALUES, _CRITICAL),
    (
        "quote-then-join",
        rf"(?i)['\"](?:\|\||\+){_OPENS}(?:select\b|(?:pg_)?sleep|\d{_MAY}=)",
        _VALUES,
        _CRITICAL,
    ),
    (
        "second-statement",
        (
            rf"(?i);{_MAY}(?:(?:drop|alter|create|truncate){_GAP}(?:table|database|schema|user|login|view|index|procedure|"
            rf"function)\b|delete{_GAP}from\b|insert{_GAP}into\b|update{_GAP}\w+{_GAP}set\b|declare{_GAP}@|"
            rf"exec(?:ute)?{_MAY}(?:\(|xp_|sp_|master|@)|shutdown{_MAY}(?:;|--|&|$)|copy{_GAP}\w+{_GAP}(?:from|to){_GAP}program|"
            rf"waitfor{_GAP}delay|select{_GAP}[\w.*,()]+{_GAP}from\b|select{_GAP}(?:\w+\(|\*))"
        ),
        _VALUES,
        _CRITICAL,
    ),
    (
        "delay",
        (
            rf"(?i)(?:pg_sleep{_MAY}\(|waitfor{_GAP}delay{_GAP}['\"]|benchmark{_MAY}\({_MAY}\d+{_MAY},|"
            r"dbms_pipe\.receive_message|dbms_lock\.sleep)"
        ),
        _VALUES,
        _CRITICAL,
    ),
    (
        "sleep-in-expression",
        rf"(?i)(?:{_OR}|\brlike\b|\bselect\b|[\d'\"][-+*/^|]|,){_OPENS}sleep{_MAY}\({_MAY}\w",
        _VALUES,
        _CRITICAL,
    ),
    (
        "nested-select",
        (
            rf"(?i)\({_MAY}select{_OPENS}(?:\d|\*|@@|top{_GAP}\d|(?:user|version|database){_CLOSES}(?:\)|&|$)|"
            rf"\w+{_MAY}\(|[\w.,]+{_GAP}from\b)"
        ),
        _VALUES,
        _CRITICAL,
    ),
    (
        "condition-by-function",
        rf"(?i){_OR}{_OPENS}(?:ascii|isnull|substr|extractvalue|updatexml|row|json_\w+|ord|elt|char|convert|utl_\w+\.\w+){_MAY}\(",
        _VALUES,
        _CRITICAL,
    ),
    (
        "condition-by-common-function",
        rf"(?i){_OR}{_OPENS}(?:substring|length|cast|if|exists|user|database|version|count){_MAY}\(",
        _VALUES,
        _WARNING,
    ),
    (
        "server-function",
        (
            r"(?i)\b(?:load_file\s*\(\s*['\"\dx]|into\s+(?:out|dump)file\s+['\"]|procedure\s+analyse\s*\(|xp_cmdshell|"
            r"utl_(?:inaddr|http)\.|extractvalue\s*\(\s*\d|updatexml\s*\(\s*\d)"
        ),
        _VALUES,
        _CRITICAL,
    ),
    (
        "catalogue",
        (
            r"(?i)(?:information_schema\.|pg_catalog\.|\bsqlite_(?:master|schema)\b|\bsys(?:columns|objects|databases)\b|\bsys\.(?:databases|objects|tables)\b|"
            r"\bv\$version\b)"
        ),
        _VALUES,
        _WARNING,
    ),
    ("session-variable", r"(?i)@@(?:version|datadir|hostname|basedir)\b", _VALUES, _WARNING),
    ("database-functions", r"(?i)\b(?:database|schema|current_user|version)\s*\(\s*\)", _VALUES, _WARNING),
    ("select-from", rf"(?i)\bselect{_GAP}[\w.*,()]+{_GAP}from{_GAP}\w", _VALUES, _WARNING),
    ("column-count", rf"(?i)[\d'\")]{_GAP}order{_GAP}by{_GAP}\d+{_MAY}(?:--|#|/\*)", _VALUES, _CRITICAL),
    ("case-of-numbers", rf"(?i)\bcase{_GAP}when{_OPENS}\d+{_MAY}={_MAY}\d", _VALUES, _CRITICAL),
    ("commented-words", r"(?i)[a-z'\d]/\*[^*&]{0,8}\*+/['a-z\d]|/\*!\d{0,5}\s*[a-z]", _VALUES, _WARNING),
    ("long-hex", r"(?i)\b0x[0-9a-f]{8}", _VALUES, _NOTICE),
    ("number-then-quote", r"=-?\d+['\"]", _VALUES, _NOTICE),
    ("comment-at-the-end", r"[\w)'\"]\s*(?:--[\s-]*|#)(?:&|$)", _VALUES, _NOTICE),
    (
        "document-operator",
        (
            r"(?i)(?:\[\$(?:ne|eq|gte?|lte?|in|nin|regex|where|exists|or|and)\]|(?:^|&)\$where)=|"
            r"=\s*\{\s*['\"]?\$(?:ne|gte?|lte?|nin|regex|where|exists)['\"]?\s*:|['\"]\s*;\s*return\s+true\b"
        ),
        _VALUES,
        _CRITICAL,
    ),
)
