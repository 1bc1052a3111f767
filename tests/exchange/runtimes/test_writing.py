"""Exports run without the package and give the model's numbers, or are not left behind."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import umt_pipeline as umt
from tests.evaluation.tiny import make_tables
from tests.serving.folders import SHAPES, write_folder
from umt_pipeline.core.errors import CheckpointError, ConfigError
from umt_pipeline.core.files import read_json, sha256_file, write_json
from umt_pipeline.evaluation.tables import Tables
from umt_pipeline.exchange.runtimes import programs, writing
from umt_pipeline.exchange.runtimes.parts import load_parts, run
from umt_pipeline.exchange.runtimes.samples import drawn_samples, given_samples
from umt_pipeline.exchange.runtimes.transformers_folder import CODE_FILE, _imported
from umt_pipeline.exchange.runtimes.writing import export_model
from umt_pipeline.models.folders import weights_sha256
from umt_pipeline.serving.files import load_frames

TEXTS = ("a caption", "another one")
CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# As on a machine where the package is not installed.
BLOCKED = "import sys\nsys.modules['umt_pipeline'] = None\n"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return make_tables(tmp_path_factory.mktemp("media"), ("train", "test"))


@pytest.fixture(scope="module")
def stage2(tmp_path_factory: pytest.TempPathFactory, tables: Tables) -> Path:
    return write_folder("stage2", tmp_path_factory.mktemp("models") / "stage2", tables)


@pytest.fixture(scope="module")
def exported_onnx(tmp_path_factory: pytest.TempPathFactory, stage2: Path) -> Path:
    out = tmp_path_factory.mktemp("onnx") / "exported"
    export_model(stage2, out, "onnx", as_int8=True)
    return out


@pytest.fixture(scope="module")
def exported_torch(tmp_path_factory: pytest.TempPathFactory, stage2: Path) -> Path:
    out = tmp_path_factory.mktemp("torch") / "exported"
    export_model(stage2, out, "torch")
    return out


@pytest.fixture(scope="module")
def exported_transformers(tmp_path_factory: pytest.TempPathFactory, stage2: Path) -> Path:
    out = tmp_path_factory.mktemp("transformers") / "exported"
    export_model(stage2, out, "transformers")
    return out


def clip_of(tables: Tables) -> Path:
    clips = tables.videos[tables.videos["media"] == "video"]
    return tables.media_root / str(clips["path"].iloc[1])


def run_card(folder: Path, clip: Path, tmp_path: Path, *names: str) -> dict[str, np.ndarray]:
    """Run the code of a folder's card, in that folder, where the package cannot be imported; return some variables."""
    blocks = CODE.findall((folder / "README.md").read_text(encoding="utf-8"))
    shutil.copytree(folder, tmp_path / "there")
    shutil.copy(clip, tmp_path / "there" / "clip.mp4")
    saved = ", ".join(f"{name}=np.asarray({name})" for name in names)
    code = "\n".join([BLOCKED, *blocks, f"np.savez('found.npz', clips=clips, {saved})"])
    told = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "there",
        env={"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1", "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    return dict(np.load(tmp_path / "there" / "found.npz"))


def expected(stage2: Path, clips: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return the vectors that the package gives of clips and of :data:`TEXTS`."""
    model = umt.load(stage2, "fp32")
    assert model.embedder is not None
    return model.embedder.encode_clips(torch.from_numpy(clips)), model.embedder.encode_texts(TEXTS)


def assert_whole(out: Path, model: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = read_json(out / "manifest.json")
    listed = {name: facts["sha256"] for name, facts in manifest["files"].items()}
    there = {path.name: sha256_file(path) for path in out.iterdir() if path.name != "manifest.json"}
    assert listed == there
    assert manifest["model"]["weights_sha256"] == weights_sha256(model)
    assert all(part["parity"]["largest_difference"] <= part["parity"]["limit"] for part in manifest["parts"].values())
    return manifest


@pytest.mark.slow
def test_onnx_models_run_as_their_card_says(exported_onnx: Path, stage2: Path, tables: Tables, tmp_path: Path) -> None:
    found = run_card(exported_onnx, clip_of(tables), tmp_path, "embeddings", "texts", "cosines")
    clips, texts = expected(stage2, found["clips"])
    np.testing.assert_allclose(found["embeddings"], clips, atol=1e-5)
    np.testing.assert_allclose(found["texts"], texts, atol=1e-5)
    np.testing.assert_allclose(found["cosines"], clips @ texts.T, atol=1e-5)
    # Decoders round colours differently.
    view = load_frames(clip_of(tables), load_parts(stage2).view)
    assert np.abs(found["clips"][0].astype(int) - view.astype(int)).mean() < 2.0


@pytest.mark.slow
def test_onnx_models_are_described(exported_onnx: Path, stage2: Path) -> None:
    manifest = assert_whole(exported_onnx, stage2)
    assert set(manifest["files"]) == {
        "README.md", "text.int8.onnx", "text.onnx", "tokenizer.json", "video.int8.onnx", "video.onnx"
    }  # fmt: skip
    assert manifest["versions"]["opset"] == onnx.load(exported_onnx / "video.onnx").opset_import[0].version
    assert manifest["parts"]["video"]["inputs"] == {"frames": ["uint8", ["batch", 2, 32, 32, 3]]}
    ids = ["int64", ["batch", "tokens"]]
    assert manifest["parts"]["text"]["inputs"] == {"input_ids": ids, "attention_mask": ids}
    assert manifest["parts"]["text"]["output"] == {"embeddings": ["float32", ["batch", 8]]}
    assert manifest["text"] == {"longest": 12, "tokenizer": "tokenizer.json"}
    card = (exported_onnx / "README.md").read_text(encoding="utf-8")
    assert "library_name: onnx" in card
    assert "With weights of 8 bits" in card
    assert "## Intended use and limits" in card


@pytest.mark.slow
def test_int8_models_are_smaller_and_their_loss_is_written_down(exported_onnx: Path, stage2: Path) -> None:
    manifest = read_json(exported_onnx / "manifest.json")
    model = load_parts(stage2)
    samples = drawn_samples(model.view)
    for part in model.parts:
        told = manifest["parts"][part.name]["int8"]
        assert manifest["files"][told["file"]]["bytes"] < manifest["files"][f"{part.name}.onnx"]["bytes"]
        kinds = {node.op_type for node in onnx.load(exported_onnx / told["file"]).graph.node}
        assert "MatMulInteger" in kinds
        inputs = model.inputs(part, samples.frames_BTSSC, samples.texts)
        rough, exact = programs.load_onnx(exported_onnx / told["file"])(*inputs), run(part, *inputs)
        cosines = torch.nn.functional.cosine_similarity(exact, rough, dim=1)
        assert 0.9 < told["cosine_min"] <= told["cosine_mean"] <= 1.0
        # Activations are scaled by the whole batch, so batches of another size round otherwise.
        assert told["cosine_mean"] == pytest.approx(float(cosines.mean()), abs=1e-2)
        assert told["fp32_per_s"] > 0
        assert told["int8_per_s"] > 0
        assert 0 <= told["top1_agreement"] <= 1
    assert set(manifest["int8_search"]) == {"top1_agreement_text_to_video", "top1_agreement_video_to_text"}


@pytest.mark.slow
def test_programs_of_torch_run_as_their_card_says(exported_torch: Path, stage2: Path, tables: Tables, tmp_path: Path) -> None:
    assert_whole(exported_torch, stage2)
    found = run_card(exported_torch, clip_of(tables), tmp_path, "embeddings", "texts")
    clips, texts = expected(stage2, found["clips"])
    np.testing.assert_allclose(found["embeddings"], clips, atol=1e-5)
    np.testing.assert_allclose(found["texts"], texts, atol=1e-5)


@pytest.mark.slow
def test_transformers_loads_the_folder_without_the_package(
    exported_transformers: Path, stage2: Path, tables: Tables, tmp_path: Path
) -> None:
    manifest = assert_whole(exported_transformers, stage2)
    assert {"config.json", "model.safetensors", "modeling_unmasked_teacher.py", "tokenizer.json"} <= set(manifest["files"])
    found = run_card(exported_transformers, clip_of(tables), tmp_path, "embeddings", "texts", "match")
    clips, texts = expected(stage2, found["clips"])
    np.testing.assert_allclose(found["embeddings"], clips, atol=1e-5)
    np.testing.assert_allclose(found["texts"], texts, atol=1e-5)
    model = umt.load(stage2, "fp32")
    assert model.embedder is not None
    match = model.embedder.match(torch.from_numpy(found["clips"]), TEXTS[:1])
    np.testing.assert_allclose(found["match"], match, atol=1e-5)


@pytest.mark.slow
def test_transformers_loads_half_precision(exported_transformers: Path, stage2: Path) -> None:
    model = load_parts(stage2)
    frames, texts = drawn_samples(model.view).frames_BTSSC[:2], drawn_samples(model.view).texts[:2]
    ids, mask = model.inputs(model.parts[1], frames, texts)
    with _imported(exported_transformers / CODE_FILE) as module, torch.inference_mode():
        half = module.UnmaskedTeacherVideoText.from_pretrained(exported_transformers, dtype=torch.bfloat16)
        said = half(frames, ids, mask)
        assert half.get_match_logits(frames, ids, mask).isfinite().all()
    assert said.logits_per_text.shape == (2, 2)
    for found, part, inputs in ((said.video_embeds, 0, (frames,)), (said.text_embeds, 1, (ids, mask))):
        assert torch.nn.functional.cosine_similarity(found, run(model.parts[part], *inputs)).min() > 0.999


@pytest.mark.slow
def test_encoders_and_classifiers_go_out_too(tmp_path: Path, tables: Tables) -> None:
    stage1 = write_folder("stage1", tmp_path / "stage1", tables)
    classifier = write_folder("classification", tmp_path / "classification", tables) / "shape"
    for folder, name in ((stage1, "embeddings"), (classifier, "logits")):
        out = tmp_path / f"{name}_out"
        manifest = export_model(folder, out, "onnx", as_int8=True)
        assert list(manifest["parts"]) == ["video"]
        assert list(manifest["parts"]["video"]["output"]) == [name]
        assert "int8_search" not in manifest
        assert manifest["text"] is None
        export_model(folder, tmp_path / f"{name}_torch", "torch")
        hub = tmp_path / f"{name}_hub"
        export_model(folder, hub, "transformers")
        assert name in (hub / "README.md").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "logits_out" / "classes.json").read_text()) == list(SHAPES)
    assert read_json(tmp_path / "logits_hub" / "config.json")["id2label"] == {str(row): name for row, name in enumerate(SHAPES)}


@pytest.mark.slow
def test_an_export_that_differs_is_not_left_behind(tmp_path: Path, stage2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true = programs.RUNTIMES["torch"]

    def load(path: Path) -> programs.Runner:
        exported = true.load(path)
        return lambda *inputs: exported(*inputs) + 2e-4

    monkeypatch.setitem(writing.RUNTIMES, "torch", replace(true, load=load))
    with pytest.raises(CheckpointError, match=r"video part, exported as torch, differs from the model by 0\.0002; expected"):
        export_model(stage2, tmp_path / "out", "torch")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_not_finite_is_refused(tmp_path: Path, stage2: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(stage2, broken)
    state = load_file(broken / "model.safetensors")
    state["vision.norm.weight"][0] = torch.nan
    save_file(state, broken / "model.safetensors")
    with pytest.raises(CheckpointError, match="differs from the model by nan"):
        export_model(broken, tmp_path / "out", "transformers")
    assert not (tmp_path / "out").exists()


def test_what_cannot_work_is_refused_before_it_is_paid_for(
    tmp_path: Path, stage2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="format is 'tensorrt', expected one of onnx, torch, transformers"):
        export_model(stage2, out, "tensorrt")
    with pytest.raises(ConfigError, match="int8 is asked of the format 'torch', which has none: take onnx"):
        export_model(stage2, out, "torch", as_int8=True)
    monkeypatch.setattr(programs.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs onnx, onnxscript, onnxruntime: pip install 'umt_pipeline\[export\]'"):
        export_model(stage2, out, "onnx")
    monkeypatch.undo()
    monkeypatch.setattr(programs, "LARGEST_ONNX", 1000)
    with pytest.raises(ConfigError, match=r"GB of weights, and an ONNX file holds up to 0\.0 GB: take --format torch"):
        export_model(stage2, out, "onnx")
    assert not out.exists()


def test_only_exports_are_replaced(tmp_path: Path, stage2: Path) -> None:
    out = tmp_path / "out"
    export_model(stage2, out, "transformers")
    with pytest.raises(ConfigError, match="exists already: choose another folder, or replace it by --force"):
        export_model(stage2, out, "transformers")
    (out / "old").touch()
    export_model(stage2, out, "transformers", force=True)
    assert not (out / "old").exists()
    own = tmp_path / "own"
    own.mkdir()
    for content in (None, [1], {"format": "holiday"}):
        if content is not None:
            write_json(own / "manifest.json", content)
        with pytest.raises(ConfigError, match="is no folder that an export wrote, so --force does not replace it"):
            export_model(stage2, own, "transformers", force=True)
    shutil.copytree(stage2, out / "model")
    with pytest.raises(ConfigError, match=r"holds the model .* itself, which --force would delete"):
        export_model(out / "model", out, "transformers", force=True)


def test_samples_have_to_fit(tmp_path: Path, stage2: Path) -> None:
    clip = np.zeros((2, 32, 32, 3), dtype=np.uint8)
    with pytest.raises(ConfigError, match="mine: expected at least 2 clips that can be read, found 1"):
        given_samples({"a": clip}, (), "mine")
    few = given_samples({"a": clip, "b": clip}, ("one",), "mine")
    with pytest.raises(ConfigError, match=r"mine: expected captions of two clips or more.* found 1"):
        export_model(stage2, tmp_path / "out", "torch", samples_for=lambda view: few)
    other = given_samples({"a": clip[:1], "b": clip[:1]}, TEXTS, "mine")
    with pytest.raises(ConfigError, match=r"expected clips of \(2, 32, 32, 3\), .* found \(1, 32, 32, 3\)"):
        export_model(stage2, tmp_path / "out", "torch", samples_for=lambda view: other)


def test_drawn_samples_are_always_the_same(stage2: Path) -> None:
    view = load_parts(stage2).view
    first, second = drawn_samples(view), drawn_samples(view)
    assert torch.equal(first.frames_BTSSC, second.frames_BTSSC)
    assert first.texts == second.texts
    assert first.frames_BTSSC.shape == (32, 2, 32, 32, 3)
