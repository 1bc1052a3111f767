"""`--set` changes one value of a parameter file, and not a byte beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from umt_pipeline.commands.overrides import Override, apply_overrides
from umt_pipeline.core.errors import ConfigError

TEXT = """\
# The student.
stage1:
  train: {lr: 1.5e-3, betas: [0.9, 0.95]} # as in the paper
  note: "a: b"   # quoted
  empty:
  several:
    - 1
    - 2
"""
FILE = "conf/base/parameters_stage1.yml"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A project with one parameter file."""
    (tmp_path / FILE).parent.mkdir(parents=True)
    (tmp_path / FILE).write_text(TEXT, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("key", "value", "old", "new"),
    [
        ("stage1.train.lr", "3e-4", "lr: 1.5e-3,", "lr: 3e-4,"),
        ("stage1.train.betas", "[0.8, 0.9]", "[0.9, 0.95]", "[0.8, 0.9]"),
        ("stage1.note", "plain", '"a: b"   #', "plain   #"),
        ("stage1.empty", "7", "empty:\n", "empty: 7\n"),
    ],
)
def test_one_value_changes(small: Path, key: str, value: str, old: str, new: str) -> None:
    override = Override.parse(f"{FILE}:{key}={value}")
    assert len(apply_overrides(small, [override])) == 1
    assert (small / FILE).read_text(encoding="utf-8") == TEXT.replace(old, new)
    assert apply_overrides(small, [override]) == [], "it stands there already"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stage1.lr=3", "expected FILE:key.inner=value"),
        (f"{FILE}:stage1.lr", "expected FILE:key.inner=value"),
        (f"{FILE}:stage1.train.lr=[1", "expected a YAML value"),
        ("conf/base/nothing.yml:a=1", "expected a parameter file in"),
        ("../outside.yml:a=1", "expected a parameter file in"),
        (f"{FILE}:stage1.train.rate=1", "expected one of lr, betas; found 'rate'"),
        (f"{FILE}:stage1.train=1", "value of one line"),
        (f"{FILE}:stage1.several=[1]", "value of one line"),
        (f"{FILE}:stage1.train.lr=1, x: 2", "fits in its place"),
    ],
)
def test_what_is_no_value_of_a_file_is_refused(small: Path, text: str, message: str) -> None:
    (small.parent / "outside.yml").write_text("a: 0", encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        apply_overrides(small, [Override.parse(f"{FILE}:stage1.note=x"), Override.parse(text)])
    assert yaml.safe_load((small / FILE).read_text(encoding="utf-8"))["stage1"]["note"] == "a: b", "all or nothing"
