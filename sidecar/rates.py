"""How much is told: at most so many a second, and of what is too much a share.

Time and chance are arguments. Nothing here tells anything.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Final

_NEVER: Final = 1 << 62


class Bucket:
    """A token bucket of one second's worth, as one number: the time at which it is full again.

    Empty at `mono_s` means `full_at_s - mono_s > tolerance_s`, which a hot path may ask without a call.
    """

    __slots__ = ("_token_s", "full_at_s", "rate", "tolerance_s")

    def __init__(self, rate: float) -> None:
        """`rate` a second; 0 is always empty."""
        self.rate = rate
        self._token_s = 1 / rate if rate > 0 else 0.0
        # The nanosecond is for the rounding of sums.
        self.tolerance_s = max(1.0, self._token_s) - self._token_s + 1e-9 if rate > 0 else 0.0
        self.full_at_s = float("-inf") if rate > 0 else float("inf")

    def take(self, mono_s: float) -> bool:
        full_at_s = self.full_at_s
        if full_at_s - mono_s > self.tolerance_s:
            return False
        self.full_at_s = max(full_at_s, mono_s) + self._token_s
        return True


class Sample:
    """Chooses a share of what comes, each with the same chance and independently of the others.

    It draws how many pass until the next one is chosen (a geometric number), so that most cost a
    subtraction. `chance` gives numbers from 0 to below 1.
    """

    __slots__ = ("_chance", "_left", "_log_miss", "share")

    def __init__(self, share: float, *, chance: Callable[[], float]) -> None:
        """`share` is from 0, which chooses nothing, to 1, which chooses all."""
        self.share = share
        self._chance = chance
        self._log_miss = log(1 - share) if share < 1 else 0.0
        self._left = self._draw()

    def take(self) -> bool:
        """Whether this one is chosen."""
        if self._left:
            self._left -= 1
            return False
        self._left = self._draw()
        return True

    def _draw(self) -> int:
        """How many pass before the next one is chosen."""
        if self.share >= 1:
            return 0
        if self._log_miss == 0.0:  # a share of 0, or too small to tell from it
            return _NEVER
        return min(_NEVER, int(log(1 - self._chance()) / self._log_miss))
