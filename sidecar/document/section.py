"""What the schema is made of: a section, how a leaf names its notation, and the leaves of several sections.

Which sections there are is `schema`'s and `credentials`'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sidecar.document import credential_notations, notations
from sidecar.document.notations import Notation


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A mapping of the document."""


def written(notation: Notation) -> Meta:
    """The annotation of a leaf that is read by this notation."""
    return Meta(extra={"notation": notation})


def non_empty(why: str, most: int | None = None) -> Meta:
    """The annotation of a list that must not be empty; `why` follows "an empty list"."""
    return Meta(max_length=most, extra={"empty": why})


CIDR = written(Notation(notations.cidr, "a network or an address"))
HEADER = written(Notation(notations.header_name, "the name of a header"))
NAME = written(Notation(notations.name, "a name"))
PATH = written(Notation(notations.file_path, "a path"))
SCOPE = written(Notation(credential_notations.scope, "a scope"))

Networks = tuple[Annotated[str, CIDR], ...]
Files = tuple[Annotated[Path, PATH], ...]
PrincipalKind = Literal["anonymous", "client", "server"]
