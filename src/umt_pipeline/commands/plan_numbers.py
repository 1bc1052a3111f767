"""Numbers that carry their derivation: what `umt plan` computes with, so that a sum and what is said of it cannot differ."""

from __future__ import annotations

import math
from dataclasses import dataclass

from umt_pipeline.core.config import Config


@dataclass(frozen=True)
class Number:
    """A value, and in one line how it came about.

    Args:
        value: the number.
        how: the line, with its terms' values.
        simple: the line needs no brackets in another one.
    """

    value: float
    how: str
    simple: bool = True

    def __add__(self, other: Number) -> Number:
        if not self.value or not other.value:
            return other if other.value else self
        return Number(self.value + other.value, f"{self.how} + {other.how}", simple=False)

    def __mul__(self, other: Number) -> Number:
        return Number(self.value * other.value, f"{self._factor()} x {other._factor()}")

    def __truediv__(self, other: Number) -> Number:
        divisor = f"({other.how})" if " x " in other.how or not other.simple else other.how
        return Number(self.value / other.value, f"{self._factor()} / {divisor}")

    def called(self, name: str, unit: str = "") -> Number:
        """Return the same value with a name for its derivation, which is then told elsewhere."""
        return Number(self.value, f"{si(self.value)}{unit} ({name})")

    def _factor(self) -> str:
        return self.how if self.simple else f"({self.how})"


NOTHING = Number(0, "none")


def count(value: float, of: str) -> Number:
    """Return a number that is told in full, with what it counts."""
    return Number(value, f"{value:,.10g} {of}")


def amount(value: float, unit: str) -> Number:
    """Return a number that is told with three digits and its unit: 464 GFLOP."""
    return Number(value, f"{si(value)}{unit}")


def longest(parts: dict[str, float]) -> Number:
    """Return the largest of hours with names, and say which it is."""
    name = max(parts, key=lambda part: parts[part])
    beaten = ", ".join(f"{other} {hours(value)}" for other, value in parts.items() if other != name and value > 0)
    return Number(parts[name], f"{name} takes the longest" + (f" ({beaten} beside it)" if beaten else ""))


class Explained(Config):
    """Numbers and how each of them came about.

    Attributes:
        how: one line for each number, by its name.
    """

    how: dict[str, str]


def explained(**numbers: Number) -> tuple[dict[str, float], dict[str, str]]:
    """Return values and derivations by name."""
    return {name: number.value for name, number in numbers.items()}, {name: number.how for name, number in numbers.items()}


def hours(value: float) -> str:
    """Write hours as people read them."""
    return f"{value:,.1f}" if value >= 0.1 else f"{value:.2g}"


def si(number: float) -> str:
    """Write a number with three digits and a prefix of the SI, to which a unit is to be added."""
    power = min(max(int(math.log10(number) // 3), 0), 6) if number > 0 else 0
    return f"{number / 1000**power:.3g} {' kMGTPE'[power].strip()}"
