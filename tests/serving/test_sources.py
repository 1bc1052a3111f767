"""What models are loaded from, and what is said where that does not work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import umt_pipeline as umt
from tests.evaluation.tiny import make_tables
from tests.serving.folders import ANSWERS, write_clip, write_folder
from umt_pipeline.core.errors import CheckpointError, ConfigError
from umt_pipeline.core.files import write_json
from umt_pipeline.evaluation.tables import Tables
from umt_pipeline.exchange.convert import export_checkpoint
from umt_pipeline.models.folders import load_config
from umt_pipeline.models.text import TextConfig
from umt_pipeline.models.tokenizer import save_tokenizer, train_wordpiece
from umt_pipeline.models.video_text import VideoTextConfig, VideoTextModel, save_video_text
from umt_pipeline.models.vit import ViTConfig
from umt_pipeline.serving import sources
from umt_pipeline.tasks.classification.model import Classifier, ClassifierConfig, save_classifier
from umt_pipeline.tasks.question_answering.model import QuestionAnsweringModel, save_question_answering

# As wide as a head of every published model, which files do not say.
VISION = ViTConfig(image_size=32, patch_size=8, frames=2, dim=64, depth=1, heads=1)
TEXT = TextConfig(
    vocab_size=200, dim=64, layers=2, fusion_layer=1, heads=1, mlp_dim=32, max_positions=12, vision_dim=VISION.dim
)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return make_tables(tmp_path_factory.mktemp("media"), ("train", "test"))


@pytest.fixture
def path(tables: Tables) -> Path:
    return tables.media_root / "clip0.mp4"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UMT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_model(folder: Path, kind: str, tables: Tables) -> Path:
    """Write a random model of published sizes, as a model folder."""
    folder.mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "classification":
            classifier = Classifier(ClassifierConfig(vision=VISION, classes=3))
            nn.init.normal_(classifier.head.weight)
            save_classifier(folder, classifier, ("a", "b", "c"))
            return folder
        tokenizer = train_wordpiece(tables.captions["caption"], 200)
        model = VideoTextModel(VideoTextConfig(vision=VISION, text=TEXT, embed_dim=8))
        if kind == "stage2":
            save_video_text(folder, model, tokenizer)
        else:
            save_question_answering(folder, QuestionAnsweringModel.from_video_text(model)[0], tokenizer)
    save_tokenizer(tokenizer, folder.parent / "words")
    return folder


SIZES: dict[str, Any] = {"frames": 2, "image_size": 32}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_published_stage_2_file_is_the_model_that_it_was_made_of(
    tmp_path: Path, tables: Tables, path: Path, cache: Path, suffix: str
) -> None:
    folder = write_model(tmp_path / "model", "stage2", tables)
    file = tmp_path / f"published{suffix}"
    export_checkpoint(folder, file)
    known = umt.load(folder, "fp32")
    found = umt.load(file, "fp32", tokenizer=tmp_path / "words", **SIZES)
    assert (found.kind, found.source) == ("stage2", str(file))
    torch.testing.assert_close(found.embed_videos([path]).all(), known.embed_videos([path]).all())
    torch.testing.assert_close(found.embed_texts(["a disc"]), known.embed_texts(["a disc"]))
    written = {entry: entry.stat().st_mtime_ns for entry in cache.rglob("*.safetensors")}
    umt.load(file, "fp32", tokenizer=tmp_path / "words", **SIZES)
    assert {entry: entry.stat().st_mtime_ns for entry in cache.rglob("*.safetensors")} == written, "turned into a folder once"


def test_published_classifiers_and_answering_models(tmp_path: Path, tables: Tables, path: Path) -> None:
    folder = write_model(tmp_path / "classifier", "classification", tables)
    export_checkpoint(folder, tmp_path / "k400.pth")
    known = umt.load(folder, "fp32").classify([path]).all()
    write_json(tmp_path / "labels.json", ["a", "b", "c"])
    for classes in (["a", "b", "c"], tmp_path / "labels.json"):
        found = umt.load(tmp_path / "k400.pth", "fp32", classes=classes, **SIZES).classify([path])
        assert found.classes == {"k400": ("a", "b", "c")}
        np.testing.assert_allclose(found.all()["k400"], known["classifier"], rtol=1e-5)
    with pytest.raises(ConfigError, match=r"k400\.pth is a classifier, whose file does not name its labels: give classes="):
        umt.load(tmp_path / "k400.pth", **SIZES)
    folder = write_model(tmp_path / "answers", "question_answering", tables)
    export_checkpoint(folder, tmp_path / "answers.pth")
    asked = umt.load(tmp_path / "answers.pth", "fp32", tokenizer=tmp_path / "words", answers=ANSWERS, **SIZES)
    said = asked.ask(path, "what goes")
    expected = umt.load(folder, "fp32", answers=ANSWERS).ask(path, "what goes")
    assert [one.text for one in said] == [one.text for one in expected]
    assert said[0].log_probability == pytest.approx(expected[0].log_probability, rel=1e-5)


def test_a_file_needs_its_tokenizer(tmp_path: Path, tables: Tables) -> None:
    export_checkpoint(write_model(tmp_path / "model", "stage2", tables), tmp_path / "published.pth")
    with pytest.raises(CheckpointError, match=r"published\.pth needs the tokenizer .* Without a network, name its folder"):
        umt.load(tmp_path / "published.pth", tokenizer=tmp_path / "nowhere", **SIZES)


def test_a_file_that_is_no_model_leaves_nothing_behind(tmp_path: Path, cache: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"other\.safetensors is no published checkpoint that is known: .* found weight"):
        umt.load(tmp_path / "other.safetensors")
    save_file({"patch_embed.proj.weight": torch.zeros(64, 3, 1, 8, 8)}, tmp_path / "half.safetensors")
    with pytest.raises(CheckpointError, match=r"half\.safetensors"):
        umt.load(tmp_path / "half.safetensors")
    (tmp_path / "junk.pth").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match=r"junk\.pth cannot be read as plain weights"):
        umt.load(tmp_path / "junk.pth")
    assert not list(cache.rglob("*"))[1:], "but the folder of the cache"


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("nowhere", {}, r"nowhere: expected a model folder, a checkpoint file .* found nothing"),
        ("notes.txt", {}, r"notes\.txt: .* found another kind of file"),
        ("empty", {}, r"empty is no model folder: config\.json is missing"),
        ("no_weights", {}, r"no_weights is no model folder: model\.safetensors is missing"),
        ("skipped", {}, r"skipped holds no model, for none was trained: no captions"),
        ("other", {}, r"other is a model of kind 'umt_of_nobody': expected one of umt_student"),
        ("detection", {}, r"kind 'detection', which says nothing of a video alone: it needs boxes of people"),
        ("stage2", {"answers": ["a"]}, r"option 'answers' means nothing for a model of kind 'stage2', which takes none"),
        ("stage2", {"frame": 2}, r"unknown option 'frame'; expected of frames, image_size, answers"),
        ("question_answering", {}, r"chooses from a list of answers that its folder does not hold: give answers="),
        ("question_answering", {"answers": []}, r"options of a model of kind 'question_answering': .*\nanswers"),
        ("question_answering", {"answers": "nowhere.json"}, r"answers: expected a JSON list of texts"),
        ("classification", {"clip": {"frame": 2}}, r"options of a model of kind 'classification'"),
        ("open_clip:ViT-B-99/openai", {}, r"open_clip knows no model 'ViT-B-99'"),
        ("open_clip:local-dir:nowhere", {}, r"expected a folder with open_clip_config\.json, found none"),
    ],
)
def test_what_cannot_be_loaded_is_said(
    tmp_path: Path, tables: Tables, monkeypatch: pytest.MonkeyPatch, source: str, options: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("nothing", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    write_json(tmp_path / "skipped" / "skipped.json", {"reason": "no captions"})
    write_json(tmp_path / "other" / "config.json", {"kind": "umt_of_nobody", "model": {}, "extra": {}})
    write_folder("stage2", tmp_path / "no_weights", tables)
    (tmp_path / "no_weights" / "model.safetensors").unlink()
    if source in ("detection", "stage2", "question_answering", "classification"):
        write_folder(source, tmp_path / source, tables)
    with pytest.raises((CheckpointError, ConfigError), match=message):
        umt.load(source, "fp32", **options)


def test_an_open_clip_model_is_fetched_once(tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of a file of one's own need no network."""
    from umt_pipeline.models import teacher_sources

    fetched: list[str] = []

    def fetch(source: str, folder: Path) -> None:
        fetched.append(source)
        folder.rmdir()
        write_clip(folder)

    monkeypatch.setattr(teacher_sources, "fetch_teacher", fetch)
    (tmp_path / "weights.pt").write_bytes(b"weights")
    source = f"open_clip:ViT-B-16/{tmp_path / 'weights.pt'}"
    vectors = [umt.load(source, "fp32", frames=2).embed_videos([path]).all() for _ in range(2)]
    torch.testing.assert_close(*vectors)
    assert fetched == [source]
    (tmp_path / "weights.pt").write_bytes(b"others")
    umt.load(source, "fp32", frames=2)
    assert fetched == [source] * 2, "other weights"


def test_a_folder_says_what_its_classifiers_read(tmp_path: Path, tables: Tables) -> None:
    folder = write_folder("classification", tmp_path / "model", tables)
    found = sources.find(folder, {})
    settings = sources.folder_settings(found, {"clip": {"sampling": "dense", "stride": 2}, "test": {"clips": 1}})
    assert settings["clip"] == {"frames": 2, "size": 32, "sampling": "dense", "stride": 2}
    assert (settings["test"]["clips"], settings["test"]["crops"]) == (1, 3)
    other = Classifier(ClassifierConfig(vision=VISION.model_copy(update={"image_size": 64}), classes=2))
    (folder / "zoom").mkdir()
    save_classifier(folder / "zoom", other, ("x", "y"))
    with pytest.raises(CheckpointError, match=r"classifiers that read clips of one size, found \[\(2, 32\), \(2, 64\)\]"):
        sources.folder_settings(found, {})


def test_a_tower_of_timms_has_no_texts(tmp_path: Path, path: Path) -> None:
    import timm
    from timm.models import save_for_hf

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tower = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    (tmp_path / "timm").mkdir()
    save_for_hf(tower, str(tmp_path / "timm"), safe_serialization=True)
    model = umt.load(tmp_path / "timm", "fp32", frames=1)
    assert (model.kind, model.abilities) == ("teacher", {"videos", "attention"})
    assert model.embed_videos([path]).all().shape == (1, 192)


def test_the_facts_of_an_import_stay_with_the_folder(tmp_path: Path, tables: Tables) -> None:
    export_checkpoint(write_model(tmp_path / "model", "classification", tables), tmp_path / "k400.pth")
    found = sources.find(tmp_path / "k400.pth", {"classes": ["a", "b", "c"], **SIZES})
    assert load_config(found.folder, "umt_classifier")[1]["imported_from"] == "k400.pth"
