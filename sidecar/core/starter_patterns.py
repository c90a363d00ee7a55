"""Patterns to begin with, by set: a filter names the sets that it wants.

    sql-injection       text that changes the SQL (or MongoDB) query into which it is pasted
    xss                 text that becomes a script in the page on which it is shown
    path-traversal      ways out of a directory, and files that nobody should ask for
    command-injection   text for shells, templates, interpreters and what deserialises
    log4shell           lookups of Log4j in whatever may be logged (CVE-2021-44228 and its relatives)
    scanners            tools which say in User-Agent what they are; a request without one is not suspected

Written so that people may talk about all this: a search for `union select tutorial`, O'Reilly, or `javascript: the good
parts` passes. Words count only in the shape that an attack needs, and what ordinary text has as well (a quote after a
number, `--` at the end) counts little. How well that works is in tests/data, with requests of both kinds.

They look into the query decoded, where parameters stand as `name=value&name=value`; so `[=&]` begins a value and
`(?:&|$)` ends one. How patterns are sought and what their places are is `detection`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .model import Place, Severity, Suspicion
from .starter_sql import SQL, Row

_VALUES: Final = (Place.VALUES, Place.PATH)
_ANYWHERE: Final = (Place.VALUES, Place.PATH, Place.HEADERS)
_QUERY: Final = (Place.QUERY,)
_HEADERS: Final = (Place.HEADERS,)

_CRITICAL, _ERROR, _WARNING, _NOTICE = Severity

# --- scripts in pages ---------------------------------------------------------

_CALLS: Final = r"(?:alert|prompt|confirm|eval|fetch|setTimeout|setInterval|Function)\s*[(`]"

_XSS: Final = (
    ("script-element", r"(?i)<[\s/]*(?:\w+:)?script(?:[\s/>\x00\x0b]|&|$)", _ANYWHERE, _CRITICAL),
    # `<` as the fullwidth character, and as what is left of it in one byte: some databases fold both.
    (
        "script-element-folded",
        r"(?i)(?:\xef\xbc\x9c|\xbc)/?script(?:[\s/>]|\xef\xbc\x9e|\xbe)",
        _VALUES,
        _CRITICAL,
    ),
    ("handler-in-element", r"(?i)<[a-z!?/][^>]*[\s/\"'`\x0b\x00]on[a-z]+\s*=", _ANYWHERE, _CRITICAL),
    (
        "handler-after-quote",
        (
            r"(?i)['\"`][\s/]*(?:[\s/][\w-]+[\s/]+)?\bon(?:error|load|click|dblclick|mouse\w+|pointer\w+|focus\w*|blur|key\w+|"
            r"toggle|submit|change|input|animation\w+|begin|drag\w*|drop|wheel|copy|paste)\s*="
        ),
        _ANYWHERE,
        _CRITICAL,
    ),
    ("script-uri", r"(?i)\b(?:java|vb)\s*script\s*:\s*(?:[^\s&]*[(`\[]|//)", _ANYWHERE, _CRITICAL),
    (
        "script-uri-in-element",
        r"(?i)<[^>]*=[\s\"'`]*(?:java\s*script|vbscript|data\s*:\s*text)",
        _ANYWHERE,
        _CRITICAL,
    ),
    ("page-uri", r"(?i)\bdata\s*:\s*(?:text/html|image/svg\+xml|application/xhtml)", _VALUES, _CRITICAL),
    (
        "foreign-content",
        (
            r"(?i)<(?:iframe|frame|object|embed|applet|base|meta|link|isindex|form|button|portal)[\s/][^>]*"
            r"\b(?:src|href|data|srcdoc|code|content|action|formaction|http-equiv)\s*="
        ),
        _VALUES,
        _CRITICAL,
    ),
    ("style-element", r"(?i)<style[\s/>]", _VALUES, _WARNING),
    ("style-import", r"(?i)@import\s*(?:url|['\"])", _VALUES, _WARNING),
    ("style-expression", r"(?i)<[^>]*style\s*=[^>]*expression\s*\(", _VALUES, _CRITICAL),
    ("element-with-link", r"(?i)<\w[^>]*\b(?:href|src|action)\s*=", _VALUES, _NOTICE),
    ("character-reference", r"(?i)&#(?:x[0-9a-f]{1,6}|\d{1,7});?[a-z]", _VALUES, _WARNING),
    ("call-after-quote", rf"['\"`]\)?\s*[-;+*,/]\s*{_CALLS}", _VALUES, _CRITICAL),
    ("call-in-template", rf"\$\{{\s*{_CALLS}", _VALUES, _CRITICAL),
    ("call", rf"\b{_CALLS}", _ANYWHERE, _NOTICE),
    ("page-object", r"(?i)\bdocument\s*\.\s*(?:cookie|domain|location|write|body)\b", _ANYWHERE, _WARNING),
    ("page-object-as-code", r"(?i)\bdocument\s*\.\s*(?:cookie|location)\s*[)=+]", _VALUES, _NOTICE),
    ("constructor-call", r"(?i)\bconstructor\s*(?:\.\s*constructor\s*)?\(\s*['\"]", _VALUES, _CRITICAL),
    ("hidden-code", r"\b(?:fromCharCode|atob|unescape|decodeURIComponent)\s*\(", _VALUES, _WARNING),
    ("code-in-string", r"\b(?:setTimeout|setInterval|Function)\s*\(\s*['\"`]", _VALUES, _WARNING),
    ("name-in-brackets", r"\b(?:top|window|self|parent|globalThis|frames)\s*\[\s*['\"`]", _VALUES, _WARNING),
    ("joined-letters", r"(?i)['\"][a-z]+['\"]\s*\+\s*['\"][a-z]+['\"]", _VALUES, _NOTICE),
)

# --- files --------------------------------------------------------------------

_FILES: Final = (
    ("up-twice", r"(?:\.{2,}[/\\;]+){2}", _VALUES, _CRITICAL),
    ("up-past-a-parameter", r"\.\.;/", _VALUES, _CRITICAL),
    ("up", r"(?:^|[/\\=&])\.\.[/\\]", _VALUES, _NOTICE),
    (
        "odd-encoding",
        r"(?i)%c0%(?:ae|af|2e|2f|5c)|%c1%(?:1c|9c)|%e0%80%a[ef]|%u(?:2215|2216|ff0e|ff0f)",
        _QUERY,
        _CRITICAL,
    ),
    ("encoded-twice", r"(?i)%25(?:2e|2f|5c|00)", _QUERY, _NOTICE),
    ("end-of-string", r"\x00", _VALUES, _WARNING),
    ("accounts", r"/etc/(?:passwd|g?shadow|sudoers|master\.passwd)\b", _VALUES, _CRITICAL),
    (
        "system-settings",
        r"/etc/(?:hosts|group|fstab|issue|crontab|resolv\.conf|ssh/|nginx/|apache2/|httpd/|mysql/)(?:$|[\w&\s\x00])",
        _VALUES,
        _WARNING,
    ),
    ("processes", r"/proc/(?:self|version|\d+/|net/|mounts)", _VALUES, _CRITICAL),
    (
        "windows-files",
        r"(?i)(?:[/\\]|:)(?:windows|winnt)[/\\]+(?:win\.ini|system32[/\\]|system\.ini)|(?:[/\\=]|:)boot\.ini\b",
        _VALUES,
        _CRITICAL,
    ),
    ("logs", r"/var/(?:log|mail|spool)/\w", _VALUES, _NOTICE),
    (
        "secrets",
        (
            r"(?i)/\.ssh/|\bid_(?:rsa|dsa|ecdsa|ed25519)\b|/\.aws/|/\.kube/config|/\.docker/config|/\.netrc|/\.pgpass|"
            r"/\.(?:bash|zsh|mysql|psql)_history|secrets/kubernetes\.io"
        ),
        _VALUES,
        _CRITICAL,
    ),
    (
        "dot-files",
        (
            r"(?i)/\.(?:git/(?:config|head|index|logs|objects|refs)|gitconfig|svn/(?:entries|wc\.db)|hg/|env(?:\.\w+)?(?:$|[&\x00])|"
            r"htpasswd|htaccess|ds_store|npmrc|dockercfg|vscode/sftp)"
        ),
        _VALUES,
        _CRITICAL,
    ),
    (
        "application-settings",
        r"(?i)[/=](?:web-inf|meta-inf)/|[/=]wp-config\.|/config/database\.yml|[/=]web\.config(?:$|&)",
        _VALUES,
        _CRITICAL,
    ),
    (
        "left-behind",
        (
            r"(?i)\.(?:php\d?|jspx?|aspx?|py|rb|pl|ini|conf|config|ya?ml|env|json)(?:~|\.(?:bak|old|orig|save|swp|copy))$|"
            r"/(?:backup|dump|database|db|site|www|public_html)[\w-]*\.(?:sql|bak|tar|tgz|zip|rar|7z)(?:\.(?:gz|bz2|xz|zst))?$"
        ),
        (Place.PATH,),
        _CRITICAL,
    ),
    (
        "debugging-pages",
        (
            r"(?i)/actuator/(?:env|heapdump|threaddump|jolokia|gateway|logfile)|/vendor/phpunit/|/_ignition/|/_profiler/|"
            r"/(?:phpinfo|info)\.php$|/server-(?:status|info)$|/(?:jmx-console|web-console)/"
        ),
        (Place.PATH,),
        _CRITICAL,
    ),
    (
        "wrappers",
        (
            r"(?i)\b(?:php://(?:filter|input|output|stdin|memory|temp|fd)|(?:expect|zip|phar|ogg|glob|data|gopher|dict|tftp|"
            r"ldap)://|compress\.(?:zlib|bzip2)://|jar:(?:https?|file):|netdoc:)"
        ),
        _VALUES,
        _CRITICAL,
    ),
    ("local-file", r"(?i)\bfile:/{1,3}", _VALUES, _WARNING),
)

# --- commands -----------------------------------------------------------------

# Where a command may begin. `&` separates parameters as well: only with a blank behind it is it a shell's.
_THEN: Final = r"(?:[;|\n\r`]|&&|&\s|\$\(|<\()"
_BIN: Final = r"(?:/(?:usr/)?(?:local/)?s?bin/)?"
_END: Final = r"\s*(?:[;|&`)#\n]|$)"

_COMMANDS: Final = (
    (
        "command-and-end",
        (
            rf"(?i){_THEN}\s*{_BIN}(?:id|whoami|uname|hostname|ifconfig|ipconfig|netstat|pwd|ls|dir|env|printenv|ps|w|who)"
            rf"(?:\s+-{{1,2}}[\w-]+)*(?:\s+/[\w/.*-]*)?{_END}"
        ),
        _VALUES,
        _CRITICAL,
    ),
    (
        "command-and-argument",
        (
            rf"(?i){_THEN}\s*{_BIN}(?:(?:cat|tac|nl|more|less|tail|head|strings|xxd|od)[\s<]+['\"]?[/~.*\w-]*/|"
            r"(?:wget|curl|fetch|lynx)\s+\S*(?:://|\w\.\w|\$\()|(?:nc|ncat|netcat|telnet)\s+(?:-\w|\S+\s+\d)|"
            r"sleep\s+\d|ping\s+-\w|rm\s+-\w|chmod\s+[-+\w]|chown\s+\w|nslookup\s|dig\s+\S+\.|"
            r"(?:ba|z|k|da|c)?sh\b(?:\s+-|\s*$|\s*[;|&<>])|(?:python|perl|ruby|php|node)[\d.]*\s+-\w|"
            r"net\s+(?:user|view|localgroup)|netsh\s+\w|(?:type|dir|copy|del)\s+\w:|(?:echo|printf)\s+\S.*[|>]|export\s+\w+=|base64\s+-|"
            r"(?:cat|type)\s+/)"
        ),
        _VALUES,
        _CRITICAL,
    ),
    (
        "substitution",
        (
            rf"(?:`|\$\()\s*{_BIN}(?:id|whoami|uname|hostname|cat|ls|curl|wget|nc|ping|sleep|echo|printf|nslookup|dig|bash|sh|"
            r"env|python\d?|perl)\b[^`)]*[`)]"
        ),
        _ANYWHERE,
        _CRITICAL,
    ),
    ("blank-by-variable", r"\$\{?IFS\b", _ANYWHERE, _CRITICAL),
    ("word-in-pieces", r"[;|`]\s*[a-z]+(?:['\"\\][a-z]+)+['\"]?[a-z]*\s+/", _VALUES, _CRITICAL),
    ("braces-for-blanks", r"[;|`]\s*\{[a-z]+,", _VALUES, _CRITICAL),
    ("path-by-question-marks", r"/\?{2,}[^&]?/|/[a-z]?\?[a-z]/", _VALUES, _WARNING),
    ("program-by-path", rf"{_THEN}\s*/[\w?*]+/[\w?*]+", _VALUES, _WARNING),
    ("redirected-to-command", r"[;|`][a-z]+<\s*/", _VALUES, _CRITICAL),
    ("shell-by-path", r"/bin/(?:ba|z|k|da|c)?sh\b", _ANYWHERE, _WARNING),
    ("connection-by-shell", r"/dev/(?:tcp|udp)/|\s-e\s+/bin/|\d?>&\s?\d", _VALUES, _CRITICAL),
    ("shellshock", r"\(\)\s*\{\s*[\w:]*\s*;[^}]*\}\s*;", _ANYWHERE, _CRITICAL),
    (
        "windows-shell",
        (
            r"(?i)\bpowershell(?:\.exe)?\s+-|\bcmd(?:\.exe)?\s+/[ck]\b|\bNew-Object\s+(?:System\.)?Net\.|\bDownloadString\s*\(|"
            r"\bcertutil\s+-"
        ),
        _VALUES,
        _CRITICAL,
    ),
    (
        "php",
        (
            r"(?i)<\?(?:php\b|=)|\b(?:shell_exec|passthru|proc_open|pcntl_exec)\s*\(|\bphpinfo\s*\(\s*\)|"
            r"\b(?:system|popen|assert)\s*\(\s*['\"$]|[=;]\s*(?:exec|eval)\s*\(\s*['\"$]|\{\$\{\w+\(|\b(?:auto_prepend_file|allow_url_include|call_user_func_array)\b"
        ),
        _VALUES,
        _CRITICAL,
    ),
    (
        "python",
        r"\b__import__\s*\(|\bos\.(?:system|popen)\s*\(|__(?:class|mro|subclasses|globals|builtins|bases)__",
        _VALUES,
        _CRITICAL,
    ),
    ("node", r"\bchild_process\b|\bprocess\.(?:mainModule|binding)\b", _VALUES, _CRITICAL),
    (
        "java",
        (
            r"(?i)\bjava\.lang\.(?:Runtime|ProcessBuilder)\b|\bgetRuntime\s*\(|\bclass(?:\.module)?\.classLoader\b|"
            r"%\{\s*\(#|#_memberAccess|\brO0AB[A-Za-z]"
        ),
        _VALUES,
        _CRITICAL,
    ),
    (
        "template-that-counts",
        r"(?:\{\{|[$#*%@]\{|<%=?)\s*\d+\s*[*+-]\s*'?\d+'?\s*(?:\}|%>)",
        _VALUES,
        _CRITICAL,
    ),
    (
        "template-that-calls",
        r"\{\{\s*(?:config|self|request|settings|cycler|lipsum|url_for)\s*[.|(\[]|\{%-?\s*(?:import|include|from)\b",
        _VALUES,
        _CRITICAL,
    ),
    ("serialised-php", r"\b[OC]:\d+:\"[\w\\]+\":\d+:\{", _VALUES, _CRITICAL),
    ("xml-entity", r"(?i)<!(?:entity|doctype[^>]*\b(?:system|public|entity)\b)", _VALUES, _CRITICAL),
    ("server-side-include", r"(?i)<!--#\s*(?:exec|include|echo|printenv|config)\b", _VALUES, _CRITICAL),
    ("ldap-filter", r"[)*]\s*\(\s*[|&]?\s*\(?\w+=\*|\*\)\(\w+=", _VALUES, _CRITICAL),
    (
        "answer-split",
        r"(?i)[\r\n]\s*(?:set-cookie|location|content-(?:type|length)|transfer-encoding)\s*:|[\r\n]\s*<html",
        _VALUES,
        _CRITICAL,
    ),
)

# --- Log4j --------------------------------------------------------------------

_LOOKUPS: Final = (
    ("jndi", r"(?i)\$\{\s*jndi\s*:", _ANYWHERE, _CRITICAL),
    ("nested", r"\$\{[^{}&]*\$\{", _ANYWHERE, _CRITICAL),
    (
        "lookup",
        (
            r"(?i)\$\{(?:lower|upper|env|sys|java|date|main|k8s|sd|spring|docker|web|ctx|bundle|script|url|urlDecoder|dns|"
            r"base64(?:De|En)coder|const|file|:):?[^}\s]"
        ),
        _ANYWHERE,
        _CRITICAL,
    ),
)

# --- tools --------------------------------------------------------------------

# The name before any colon: a Referer, which may well speak of them, begins with a scheme.
_TOOLS: Final = (
    (
        "by-name",
        (
            r"(?i)^[^:]*\b(?:sqlmap|nikto|nmap scripting|masscan|zgrab|gobuster|dirbuster|fuzz faster u fool|"
            r"feroxbuster|"
            r"wfuzz|"
            r"wpscan|nuclei|openvas|nessus|acunetix|w3af|arachni|netsparker|invicti|hydra|commix|jaeles|havij|bbscan|"
            r"censysinspect|skipfish|projectdiscovery|dirsearch|whatweb|joomscan|morfeus|zmeu|wapiti|vega/\d|xray/\d|"
            r"paros/\d|burp ?suite|qualys|detectify|sqlninja|bsqlbf|grabber/\d|whatwaf|wafw00f|dalfox|x8/\d)\b"
        ),
        _HEADERS,
        _CRITICAL,
    ),
    ("proxy-by-name", r"^(?:ZAP|Burp)/\d", _HEADERS, _CRITICAL),
)


def _named(prefix: str, rows: tuple[Row, ...]) -> tuple[Suspicion, ...]:
    return tuple(
        Suspicion(f"{prefix}/{name}", expression, places, severity)
        for name, expression, places, severity in rows
    )


STARTER: Final[Mapping[str, tuple[Suspicion, ...]]] = {
    "sql-injection": _named("sql-injection", SQL),
    "xss": _named("xss", _XSS),
    "path-traversal": _named("path-traversal", _FILES),
    "command-injection": _named("command-injection", _COMMANDS),
    "log4shell": _named("log4shell", _LOOKUPS),
    "scanners": _named("scanners", _TOOLS),
}
"""The patterns of each set, in the order in which they are reported."""
