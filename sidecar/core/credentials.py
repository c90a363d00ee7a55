"""Which headers may hold a secret, by their names: their values are not to be remembered or shown.

It does not read credentials, and does not judge them.
"""

from __future__ import annotations

import re
from typing import Final

may_hold_secret: Final = re.compile(
    rb"auth(?!ority)|cookie|token|secret|key|session|sid|passw|pwd|signature|credential|assertion|jwt|csrf|xsrf|cert"
).search
"""Whether a lower-case header name looks like a credential's; errs on the side of yes."""
