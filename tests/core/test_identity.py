"""Closures, code keys, settings, and identities that agree."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.identity import (
    IDENTITY_FILE,
    OPERATIONAL,
    PACKAGE_FOLDER,
    Identity,
    Setting,
    closure,
    code_key,
    fingerprint,
    settings_classes,
    settings_of,
    work_folder,
)

SOURCE = '''
"""A module."""
from umt_pipeline.core.config import Config

class SizeConfig(Config):
    """Sizes."""
    LIMIT: ClassVar[int] = 9
    depth: int
    width: int = 3

def double(value, times=2):
    """Multiply."""
    if times > 9:
        raise ValueError(f"times: {times!r}")
    return value * times
'''


def key(folder: Path, text: str) -> str:
    # Another name each time: what a file holds is read once.
    file = folder / f"{fingerprint(text)}" / "module.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return code_key(file)


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ('"""Multiply."""', '"""Multiply twice."""', False),
        ('    """Multiply."""\n', "", False),
        ("    return value", "    logger.info('%s', value)\n    return value", False),
        ("value * times", "value  *  times  # product", False),
        ("value * times", "(\n        value * times\n    )", False),
        ("value * times", "value + times", True),
        ("times=2", "times=3", True),
        ("{times!r}", "{value!r}", True),
        ("= 9", "= 8", True),
        ("depth: int\n", "depth: float\n", True),
        ("depth: int\n", "depth: int\n    heads: int\n", True),
    ],
)
def test_a_code_key_follows_what_code_does(tmp_path: Path, old: str, new: str, changes: bool) -> None:
    assert old in SOURCE
    assert (key(tmp_path, SOURCE) != key(tmp_path, SOURCE.replace(old, new))) == changes


def test_a_setting_with_a_default_is_no_code(tmp_path: Path) -> None:
    source = (PACKAGE_FOLDER / "training" / "task.py").read_text(encoding="utf-8")
    assert "TrainConfig" in settings_classes()
    setting = "    weight_decay: float = Field("
    same = source.replace(f"{setting}0.05,", f"    new: int = Field(3, ge=1)\n{setting}0.1,")
    other = source.replace(setting, f"    new: int = Field(ge=1)\n{setting}")
    assert len({source, same, other}) == 3
    assert key(tmp_path, source) == key(tmp_path, same)
    assert key(tmp_path, source) != key(tmp_path, other), "a required one has no value that means nothing new"


def test_a_closure_is_all_that_is_imported_but_what_has_no_effect() -> None:
    files = {file.relative_to(PACKAGE_FOLDER).as_posix() for file in closure(["training.stage1"])}
    assert {"training/stage1.py", "losses.py", "models/vit.py", "features/store.py", "masking.py"} <= files
    assert not {"training/metrics.py", "models/flops.py", "models/card.py"} & files
    assert not any(name.startswith(("core/", "reports/", "tasks/", "evaluation/")) for name in files)
    tested = {file.relative_to(PACKAGE_FOLDER).as_posix() for file in closure(["tasks.classification.task"])}
    assert "tasks/classification/figures.py" in tested, "a test draws a picture"
    assert "tasks/classification/page.py" not in tested, "a page is made anew each time"
    with pytest.raises(ConfigError, match=r"no module umt_pipeline\.training\.stage9"):
        code_key("training.stage9")


class Inner(Config):
    size: int
    rate: float = 0.5


class Outer(Config):
    table: Path
    inner: Inner
    weights: dict[str, float] = Field(default_factory=dict)
    maybe: Inner | None = None
    parts: tuple[Inner, ...] = ()
    named: dict[str, Inner] = Field(default_factory=dict)
    workers: Annotated[int, OPERATIONAL] = 0


def test_settings_are_named_by_their_paths() -> None:
    blocks = {"parts": (Inner(size=3),), "named": {"y": Inner(size=4, rate=1.0)}}
    found = settings_of(Outer(table=Path("a"), inner=Inner(size=1), weights={"x": 2.0}, workers=4, **blocks))
    assert {path: (setting.value, setting.default) for path, setting in found.items()} == {
        "inner": ("settings", False), "inner.size": (1, False), "inner.rate": (0.5, True),
        "weights": (["x"], False), "weights.x": (2.0, False), "maybe": (None, True),
        "parts": (1, False), "parts.0": ("settings", False), "parts.0.size": (3, False), "parts.0.rate": (0.5, True),
        "named": (["y"], False), "named.y": ("settings", False), "named.y.size": (4, False), "named.y.rate": (1.0, False),
    }  # fmt: skip


def identity(config: Config, **others: str) -> Identity:
    return Identity(settings_of(config), {"table": others.get("table", "hash")}, others.get("code", "code"))


BASE = Outer(table=Path("a"), inner=Inner(size=1))


def test_what_agrees() -> None:
    own = identity(BASE)
    assert own.agrees_with(identity(BASE.model_copy(update={"table": Path("b"), "workers": 9})))
    assert not own.agrees_with(identity(BASE, table="other"))
    assert not own.agrees_with(identity(BASE, code="other"))
    block = BASE.model_copy(update={"maybe": Inner(size=1)})
    assert not own.agrees_with(identity(block)), "a block that is there is not one that is not"
    more = Identity({**own.settings, "new": Setting(3, True)}, own.inputs, own.code)
    assert own.agrees_with(more)
    assert more.agrees_with(own)
    assert not own.agrees_with(Identity({**own.settings, "new": Setting(4, False)}, own.inputs, own.code))
    changed = Identity({**own.settings, "inner.rate": Setting(0.25, True)}, own.inputs, own.code)
    assert not own.agrees_with(changed), "a default that became another one is no default that stayed"
    assert changed.differences(own) == ["inner.rate: 0.5 became 0.25"]


names = st.dictionaries(st.sampled_from("abcd"), st.builds(Setting, st.integers(0, 2), st.booleans()), max_size=4)


@given(names, names)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_agreeing_is_mutual_and_survives_a_file(one: dict[str, Setting], other: dict[str, Setting]) -> None:
    first, second = Identity(one, {}, "c"), Identity(other, {}, "c")
    assert first.agrees_with(second) == second.agrees_with(first)
    assert Identity.from_json(first.as_json()) == first
    assert first.agrees_with(first)


def test_work_is_found_again_and_taken_for_no_other(tmp_path: Path) -> None:
    own = identity(BASE)
    folder = work_folder(tmp_path, own)
    assert (folder.name, (folder / IDENTITY_FILE).is_file()) == (own.key, True)
    with_option = Identity({**own.settings, "new": Setting(3, True)}, own.inputs, own.code)
    assert work_folder(tmp_path, with_option) == folder, "a new setting at its default"
    assert work_folder(tmp_path, identity(BASE, code="other")) != folder
    assert work_folder(tmp_path, own) == folder
