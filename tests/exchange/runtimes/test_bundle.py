"""The file of code beside a model's weights holds the package's own code, word for word, and all of it that it needs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from umt_pipeline.core.identity import PACKAGE, module_file
from umt_pipeline.exchange.runtimes import bundle as bundling
from umt_pipeline.exchange.runtimes.bundle import bundle
from umt_pipeline.exchange.runtimes.transformers_folder import code_for
from umt_pipeline.models import encoder, video_text
from umt_pipeline.tasks.classification import model as classification

KINDS = (video_text.KIND, encoder.KIND, classification.KIND)
SECTION = re.compile(r"^# --- (\S+) ---$", re.MULTILINE)


def definitions(tree: ast.Module) -> dict[str, ast.stmt]:
    return {ast.unparse(node).split(":")[0].split(" = ")[0]: node for node in tree.body if not isinstance(node, ast.Expr)}


@pytest.mark.parametrize("kind", KINDS)
def test_each_definition_is_the_package_s_own(kind: str) -> None:
    text = code_for(kind)
    sections = SECTION.split(text)[1:]
    assert sections[-2] == f"{PACKAGE}.exchange.runtimes.hugging_face", "what others need stands before them"
    for module, code in zip(sections[::2], sections[1::2], strict=True):
        file = module_file(module.removeprefix(f"{PACKAGE}."))
        assert file is not None
        known = definitions(ast.parse(file.read_text(encoding="utf-8")))
        for name, node in definitions(ast.parse(code)).items():
            own = known[name]
            if isinstance(node, ast.ClassDef):
                assert isinstance(own, ast.ClassDef)
                parts = {ast.unparse(part) for part in own.body}
                assert {ast.unparse(part) for part in node.body} <= parts
                assert [ast.unparse(part) for part in (*node.bases, *node.decorator_list)] == [
                    ast.unparse(part) for part in (*own.bases, *own.decorator_list)
                ]
                fields = [ast.unparse(part) for part in own.body if not isinstance(part, ast.FunctionDef)]
                assert [ast.unparse(part) for part in node.body if not isinstance(part, ast.FunctionDef)] == fields
            else:
                assert ast.unparse(node) == ast.unparse(own)


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_needs_nothing_that_it_does_not_hold(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.write_text(code_for(kind), encoding="utf-8")
    roots = {alias.name.partition(".")[0] for node in ast.walk(ast.parse(file.read_text())) for alias in imported(node)}
    assert roots - set(sys.stdlib_module_names) <= {"pydantic", "timm", "torch", "transformers"}
    told = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F", file],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout


def imported(node: ast.AST) -> list[ast.alias]:
    if isinstance(node, ast.ImportFrom):
        return [ast.alias(node.module or "")]
    return node.names if isinstance(node, ast.Import) else []


def test_what_only_training_needs_is_left_out() -> None:
    text = code_for(video_text.KIND)
    for absent in (
        "load_pretrained_bert",
        "match_and_mlm",
        "hard_negatives",
        "clamp_temperature_",
        "def mlm_logits",
        "safetensors",
    ):
        assert absent not in text
    assert "class Classifier" not in text
    assert "class TextModel" not in code_for(encoder.KIND)


def test_the_same_code_gives_the_same_file() -> None:
    assert code_for(video_text.KIND) == code_for(video_text.KIND)


SMALL = {
    "ground": '''"""Ground.

Two lines.
"""
from __future__ import annotations
import math

# Why three.
THREE, FOUR = 3, 4


def area(side: float) -> float:
    return side**2 * THREE


class Base:
    """A base."""

    def used(self) -> float:
        return area(2.0)

    # Nobody calls it.
    def unused(self) -> float:
        return math.tau
''',
    "top": """from __future__ import annotations
import numpy as np
from umt_pipeline.ground import Base


class Root(Base):
    def everything(self) -> np.ndarray:
        return np.array([self.used()])
""",
}


def modules(monkeypatch: pytest.MonkeyPatch, folder: Path, **files: str) -> None:
    for name, text in {**SMALL, **files}.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    bundling._module.cache_clear()
    monkeypatch.setattr(bundling, "module_file", lambda name: path if (path := folder / f"{name}.py").is_file() else None)


def test_a_file_is_put_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    modules(monkeypatch, tmp_path)
    assert (
        bundle("top", ("Root",), "Title.")
        == '''"""Title."""

from __future__ import annotations

import numpy as np


# --- umt_pipeline.ground ---
# Ground.
#
# Two lines.


# Why three.
THREE, FOUR = 3, 4


def area(side: float) -> float:
    return side**2 * THREE


class Base:
    """A base."""

    def used(self) -> float:
        return area(2.0)


# --- umt_pipeline.top ---


class Root(Base):
    def everything(self) -> np.ndarray:
        return np.array([self.used()])
'''
    )


@pytest.mark.parametrize(
    ("top", "message"),
    [
        ("from umt_pipeline import ground\nclass Root(ground.Base): ...", "ground is a module or another's other name"),
        ("from umt_pipeline.ground import Base as B\nclass Root(B): ...", "B is a module or another's other name"),
        ("from umt_pipeline.ground import Bass\nclass Root(Bass): ...", "defines no Bass"),
        (
            "class Root:\n    def run(self):\n        from umt_pipeline.ground import Base\n        return Base()",
            "Root imports from umt_pipeline.ground import Base where it runs",
        ),
        ("from umt_pipeline.ground import area\nTHREE = 5\nclass Root:\n    three = area(THREE)", "THREE is defined in"),
    ],
)
def test_code_that_cannot_be_taken_apart_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, top: str, message: str
) -> None:
    modules(monkeypatch, tmp_path, top=top)
    with pytest.raises(ValueError, match=message):
        bundle("top", ("Root",), "Title.")
