"""The benchmarks run where there is no decoder, no tokenizer and no data frame: on what training itself needs."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Set
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.video_files import write_video

# Written where every process of a benchmark finds it first: hides what a host that only trains does not have.
HIDE = """
import sys
from importlib.machinery import PathFinder

HIDDEN = {hidden!r}


class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else PathFinder.find_spec(name, path, target)


sys.meta_path = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
"""
HIDDEN = {
    *("av", "decord", "dvc", "faiss", "kedro", "matplotlib", "mlflow", "omegaconf", "open_clip", "pandas"),
    *("pandera", "pytest", "ray", "rich", "scipy", "sklearn", "tokenizers", "torchmetrics", "transformers", "typer"),
}


def run(folder: Path, *command: str, timeout: float = 300.0, hidden: Set[str] = HIDDEN) -> str:
    (folder / "sitecustomize.py").write_text(HIDE.format(hidden=set(hidden)), encoding="utf-8")
    path = os.pathsep.join([str(folder), str(ROOT / "src"), str(ROOT / "benchmarks")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_the_hidden_are_hidden(tmp_path: Path) -> None:
    code = f"from importlib.util import find_spec; print([name for name in sorted({HIDDEN!r}) if find_spec(name)])"
    assert run(tmp_path, sys.executable, "-c", code).strip() == "[]"


def width(page: str) -> int:
    """Return the columns of a page, but for its command, which names a folder of the test."""
    return max(len(line) for line in page.splitlines() if not line.startswith("    "))


@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda script: script.stem)
def test_a_benchmark_takes_only_what_the_package_has(script: Path) -> None:
    # Most of them are run by hand and seldom: nothing else would notice that a name has moved.
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "umt_pipeline":
            module = importlib.import_module(str(node.module))
            missing = [name.name for name in node.names if not hasattr(module, name.name) and not _module(node, name)]
            assert missing == [], f"{script.name}, line {node.lineno}: {node.module} has no {missing}"


def _module(node: ast.ImportFrom, name: ast.alias) -> bool:
    return importlib.util.find_spec(f"{node.module}.{name.name}") is not None


@pytest.mark.slow
def test_benchmarks_are_imported_without_them(tmp_path: Path) -> None:
    run(tmp_path, sys.executable, "-c", "import stage1, stage2, encode, gpu_check")


@pytest.mark.slow
@pytest.mark.parametrize("script", ["stage1", "stage2", "encode"])
def test_benchmarks_run_without_them(tmp_path: Path, script: str) -> None:
    options = ["--synthetic", "--size", "tiny", "--device", "cpu", "--steps", "1", "--batch", "2"]
    page = run(tmp_path, sys.executable, f"benchmarks/{script}.py", *options, "--out", str(tmp_path / "page.md"))
    assert page == (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| MFU |" in page
    assert width(page) <= 128


DRAWN_WINDOWS = """
import numpy as np, torch
from drawn_windows import World
from model_folders import fit_texts, sentences, write_video_text, model_of
from common import SIZES
from umt_pipeline import load

world = World(dim=32, windows=95)
vectors = np.concatenate(list(world.blocks()))
assert vectors.shape == (95, 32) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
assert np.array_equal(vectors, np.concatenate(list(world.blocks())))
cosines = vectors @ vectors.T
same_file = np.arange(95)[:, None] // 10 == np.arange(95)[None] // 10
assert cosines[same_file].mean() > cosines[~same_file].mean() + 0.1
queries = world.queries(20)
folder = write_video_text(Path("{folder}") / "model", model_of(SIZES["tiny"]), queries)
for precision, tolerance in (("fp32", 1e-3), ("bf16", 0.1)):
    texts = load(folder, precision).embed_texts(sentences()[:20])
    assert torch.allclose(texts, torch.from_numpy(queries), atol=tolerance)
"""


@pytest.mark.slow
def test_drawn_windows_gather_and_a_random_model_asks_for_them(tmp_path: Path) -> None:
    code = "from pathlib import Path\n" + DRAWN_WINDOWS.replace("{folder}", str(tmp_path))
    run(tmp_path, sys.executable, "-c", code, hidden=frozenset())


@pytest.mark.slow
def test_files_are_embedded_beside_a_plain_loop(tmp_path: Path) -> None:
    options = ["--size", "tiny", "--device", "cpu", "--steps", "1", "--batch", "2", "--out", str(tmp_path / "page.md")]
    page = run(tmp_path, sys.executable, "benchmarks/encode.py", *options, hidden=frozenset())
    assert page == (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| a tiny CLIP | this package | " in page
    assert "| a tiny CLIP | a plain loop of open_clip | " in page
    assert width(page) <= 128


@pytest.mark.slow
def test_a_search_is_measured_up_to_a_server(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "a.mp4", 12)
    options = ["--quick", "--videos", str(tmp_path / "videos"), "--out", str(tmp_path / "page.md")]
    page = run(tmp_path, sys.executable, "benchmarks/serve.py", *options, hidden=frozenset())
    assert page == (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "## 4 clients at once" in page
    assert "Errors" not in page
    assert "1 files, of which 0 cannot be read and 0 are copies; 1 windows" in page
    assert width(page) <= 128


@pytest.mark.slow
def test_the_check_of_a_gpu_runs_to_its_end_on_a_cpu(tmp_path: Path) -> None:
    page = run(tmp_path, sys.executable, "benchmarks/gpu_check.py", "--device", "cpu", "--out", str(tmp_path / "page.md"))
    assert "**No GPU was there.**" in page
    assert "bit for bit the weights" in page
    assert "failed" not in page
