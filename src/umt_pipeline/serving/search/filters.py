"""Which files of an index may be found: by label, path, split and date.

An index is searched with the same few filters again and again. What they compare is made ready once for each index, labels and
splits as numbers, and which windows the last filters let pass is kept.

Shapes: f files, n windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.serving.index.reading import Index

# In RE2's syntax, a class of characters that no character is of.
_NONE = r"[^\x{0}-\x{10FFFF}]"
# Filters whose windows are kept: a byte for each window.
_KEPT = 16


@dataclass(frozen=True)
class Filters:
    """Which files may be found; what is None lets all pass.

    Attributes:
        label: the file's label.
        path: a pattern such as ``holiday/*.mp4``, which the whole path fits or the end of it that begins after a slash.
        split: the file's split.
        after: date and time in ISO form; the file was last changed then or later. Without a zone, UTC is meant.
        before: the file was last changed earlier.
    """

    label: str | None = None
    path: str | None = None
    split: str | None = None
    after: str | None = None
    before: str | None = None

    def allowed(self, index: Index) -> np.ndarray | None:
        """Return which windows may be found, bool [n], not to be written to; None: all.

        Raises:
            ConfigError: no file of the index has this label or split, or a date is none.
        """
        return None if self == Filters() else _windows_of(index)(self)


class _Columns:
    """What filters compare of an index, made ready.

    It knows the index' tables, and not the index: that goes when nobody else needs it.

    Args:
        index: an open index.
    """

    def __init__(self, index: Index) -> None:
        files = index.files
        self._codes = {name: _Codes(files[name]) for name in ("label", "split")}
        self._paths = pa.array(files["path"], pa.large_string())
        self._date = files["date"]
        self._file_n = index.windows["file"].to_numpy()

    @cached_property
    def _dates_f(self) -> np.ndarray:
        """When files were last changed, datetime64 in UTC."""
        texts = pa.array(self._date, pa.large_string())
        return np.asarray(texts.cast(pa.timestamp("us", "UTC")).to_numpy(zero_copy_only=False))

    def allowed(self, filters: Filters) -> np.ndarray:
        """Return which windows filters let pass, bool [n], which nobody can write to.

        Raises:
            ConfigError: no file has this label or split, or a date is none.
        """
        kept_f = np.ones(len(self._paths), dtype=bool)
        for name, codes in self._codes.items():
            if (wanted := getattr(filters, name)) is not None:
                kept_f &= codes.equal(wanted, name)
        if filters.path is not None:
            kept_f &= fitting(self._paths, filters.path)
        if filters.after is not None:
            kept_f &= self._dates_f >= _moment(filters.after, "after")
        if filters.before is not None:
            kept_f &= self._dates_f < _moment(filters.before, "before")
        kept_n = kept_f[self._file_n]
        kept_n.flags.writeable = False
        return kept_n


class _Codes:
    """A column of texts as numbers.

    Args:
        column: texts, or None.
    """

    def __init__(self, column: pd.Series[Any]) -> None:
        self._codes_f, values = pd.factorize(column)
        self._code_of = {str(value): code for code, value in enumerate(values)}

    def equal(self, wanted: str, name: str) -> np.ndarray:
        """Return which rows have a value, bool [f].

        Raises:
            ConfigError: none has; ``name`` is that of the column.
        """
        if wanted not in self._code_of:
            known = ", ".join(map(repr, sorted(self._code_of)[:20])) or "none: no file has one"
            raise ConfigError(f"{name} {wanted!r}: expected one of {known}")
        return np.asarray(self._codes_f == self._code_of[wanted])


_WINDOWS: WeakKeyDictionary[Index, Callable[[Filters], np.ndarray]] = WeakKeyDictionary()


def _windows_of(index: Index) -> Callable[[Filters], np.ndarray]:
    """Return what says which windows of an index filters let pass, made once for as long as the index is open."""
    found = _WINDOWS.get(index)
    if found is None:
        found = _WINDOWS[index] = lru_cache(maxsize=_KEPT)(_Columns(index).allowed)
    return found


def fitting(paths: Iterable[str], pattern: str) -> np.ndarray:
    """Return which paths fit a pattern as :mod:`fnmatch` has them, whole or from one of their slashes on: bool, of each.

    Args:
        paths: texts; an Arrow array of them is not copied.
        pattern: with ``*``, ``?``, ``[abc]``, ``[a-z]``, ``[!abc]``; upper and lower case differ.
    """
    # RE2 takes time in proportion to the text, whatever the pattern is, which may come from a stranger.
    texts = paths if isinstance(paths, pa.Array) else pa.array(paths, pa.large_string())
    found = pc.match_substring_regex(texts, rf"(?s)(?:\A|/){_expression(pattern)}\z")
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=bool)


def _expression(pattern: str) -> str:
    """Return a pattern as a regular expression of RE2."""
    parts, at = [], 0
    while at < len(pattern):
        character, at = pattern[at], at + 1
        end = pattern.find("]", at + 1 + pattern.startswith("!", at)) if character == "[" else -1
        if end > 0:
            parts.append(_class(pattern[at:end]))
            at = end + 1
        else:
            parts.append({"*": ".*", "?": "."}.get(character, _one(character)))
    return "".join(parts)


def _class(listed: str) -> str:
    """Return what stands between brackets as a class of characters."""
    is_other, rest = listed.startswith("!"), listed.removeprefix("!")
    ranges = []
    while rest:
        # A hyphen at the end stands for itself.
        last = rest[2] if rest[1:2] == "-" and len(rest) > 2 else rest[0]
        if rest[0] <= last:
            ranges.append(f"{_one(rest[0])}-{_one(last)}")
        rest = rest[3:] if rest[1:2] == "-" and len(rest) > 2 else rest[1:]
    if not ranges:
        return "." if is_other else _NONE
    return f"[{'^' if is_other else ''}{''.join(ranges)}]"


def _one(character: str) -> str:
    return rf"\x{{{ord(character):X}}}"


def _moment(text: str, name: str) -> np.datetime64:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"{name}: expected a date such as 2024-05-01 or 2024-05-01T12:30, found {text!r}") from error
    in_utc = found.astimezone(UTC) if found.tzinfo else found
    return np.datetime64(in_utc.replace(tzinfo=None), "us")
