"""What becomes of a user's cells: when a value is text, which characters are cleaned away, what counts as blank."""

from __future__ import annotations

import math
import numbers
import re
import unicodedata
from typing import Any

import pandas as pd

from umt_pipeline.schemas.reasons import RowReason

# Whole numbers up to here are exact as float64.
_EXACT = 2**53
# C0 and C1 control characters: all of Unicode's category Cc. Line ends and tabs are among them.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
# Characters without ink: controls, formats (zero-width space, byte order mark, soft hyphen), separators.
_INKLESS = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})
# Letters, symbols and marks by category, and yet nothing to see: fillers of Hangul, the empty Braille pattern, the joiner of
# graphemes.
_BLANK_GLYPHS = frozenset("\u115f\u1160\u2800\u3164\uffa0\u034f")
# Characters of a cell that a message shows.
SHOWN = 80


def as_text(value: Any) -> str:
    """Return a cell as text.

    Text stays as it is: ``007``, ``NA`` and ``1.0`` are names. An empty cell of any kind is ``""``. JSON and Parquet bring
    numbers: file 12 and label 3 are names too. A column of whole numbers with an empty cell in it has become one of floats on
    its way, so a float without a fraction is given as the whole number that it was: ``1.0`` as ``1``.

    Raises:
        ValueError: the value has no one spelling as a name (1.5, True, a list), or is text that holds half a character; the
            arguments are the reason (:class:`RowReason`) and what was expected and found.
    """
    if isinstance(value, str):
        if _SURROGATE.search(value):
            raise ValueError(RowReason.BROKEN_TEXT, f"expected whole characters, found a lone surrogate in {shown(value)}")
        return value
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value)):
        return ""  # refused as blank
    if not isinstance(value, bool) and isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT:
        return str(int(value))
    raise ValueError(RowReason.NOT_TEXT, f"expected text, found {type(value).__name__} {shown(value)}")


def clean_text(text: str) -> str:
    """Return a text for people in one form: composed (NFC), each control character a space, no blanks at the ends.

    Control characters come from broken exports; a space, and not nothing, because many stood between words.
    """
    return _CONTROL.sub(" ", unicodedata.normalize("NFC", text)).strip()


def has_control(text: str) -> bool:
    """Tell whether a text has control characters other than at its ends, where line ends are common and harmless."""
    return _CONTROL.search(text.strip()) is not None


def is_blank(text: str) -> bool:
    """Tell whether a text has nothing to see: no character at all, or only spaces, controls and invisible ones."""
    return all(unicodedata.category(character) in _INKLESS or _is_blank_glyph(character) for character in text)


def _is_blank_glyph(character: str) -> bool:
    return character in _BLANK_GLYPHS or "\ufe00" <= character <= "\ufe0f"  # fillers, and selectors of variants of nothing


def shown(value: Any) -> str:
    """Return a value as a message shows it: on one line, with escapes for what cannot be seen or written, not too long."""
    text = ascii(value) if isinstance(value, str) and (is_blank(value) or _SURROGATE.search(value)) else repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"
