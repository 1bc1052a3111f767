"""Searches of held-out clips during stage 2."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.features.tiny import make_corpus
from tests.training.conftest import StageWorld
from tests.training.test_stage2 import make_spec
from umt_pipeline.data.mapped import write_mapped
from umt_pipeline.evaluation.encoders import VideoTextEncoder, clip_loader
from umt_pipeline.evaluation.retrieval import build_retrieval_set, dual_scores, query_ranks
from umt_pipeline.models.video_text import VideoTextModel
from umt_pipeline.training.held_out import HeldOut, held_out_media
from umt_pipeline.training.launch import run
from umt_pipeline.training.stage2 import VALIDATION_R1, Stage2Task
from umt_pipeline.training.task import TrainConfig

CAPTIONS = pd.DataFrame(
    [
        (0, "clip0", "A red ring."), (1, "clip0", "a ring"), (2, "clip1", "a blue star"), (3, "clip2", "a red ring"),
        (4, "clip3", "?!"), (5, "clip4", "a star"), (6, "clip4", "a red ring"), (7, "clip5", "two green squares"),
    ],
    columns=["caption_id", "video_id", "caption"],
)  # fmt: skip


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> tuple[HeldOut, pd.DataFrame]:
    """Five validation clips with captions, three of which have one in common, and one without; and their table."""
    folder = tmp_path_factory.mktemp("held_out")
    videos = make_corpus(folder / "media", ["validation"] * 6)
    clips, texts = held_out_media(videos, CAPTIONS, "validation", clean=True)
    write_mapped(folder / "clips.arrow", clips)
    write_mapped(folder / "texts.arrow", texts)
    source = HeldOut(clips=folder / "clips.arrow", captions=folder / "texts.arrow", media_root=folder / "media", every=1.0)
    return source, videos


def task_of(world: StageWorld, folder: Path, source: HeldOut) -> tuple[Stage2Task, VideoTextModel]:
    torch.manual_seed(3)
    task = make_spec(world, folder, held_out=source).build()
    model = task.model.get_submodule("model").eval()
    assert isinstance(model, VideoTextModel)
    return task, model


def test_clips_with_a_caption_are_taken_and_at_most_so_many() -> None:
    videos = pd.DataFrame(
        {
            "video_id": [f"clip{n}" for n in range(7)], "path": "", "num_frames": 3, "height": 8, "width": 8, "sha256": "",
            "split": ["validation"] * 5 + ["train", "validation"], "media": ["video"] * 4 + ["image"] + ["video"] * 2,
        }
    )  # fmt: skip
    clips, texts = held_out_media(videos, CAPTIONS, "validation", clean=True)
    assert clips["video_id"].tolist() == ["clip0", "clip1", "clip2"]
    assert texts.to_dict("list") == {"clip": [0, 0, 1, 2], "caption": ["A red ring.", "a ring", "a blue star", "a red ring"]}
    few, own = held_out_media(videos, CAPTIONS, "validation", clean=True, most=1)
    assert (len(few), own["clip"].unique().tolist()) == (1, [0])
    assert held_out_media(videos, CAPTIONS, "test", clean=True)[0].empty


def test_recall_is_that_of_the_evaluation(
    stage_world: StageWorld, tmp_path: Path, held_out: tuple[HeldOut, pd.DataFrame]
) -> None:
    source, videos = held_out
    task, model = task_of(stage_world, tmp_path, source)
    data = build_retrieval_set("validation", ["clip0", "clip1", "clip2", "clip4", "clip5"], CAPTIONS, "first")
    encoder = VideoTextEncoder("stage2", model, task.dataset()._captions.tokenizer)
    load = clip_loader(videos, source.media_root)
    seen = set()
    for seed in range(6):
        torch.manual_seed(seed)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        with torch.no_grad():
            found = task.scores()[VALIDATION_R1]
            frames = torch.from_numpy(np.stack([load(clip, encoder.view) for clip in data.video_ids]))
            video_SE = encoder.encode(frames)["stage2/embedding"].numpy()
            text_UE = encoder.encode_text(data.texts, 8)[2].numpy()
        ranks = query_ranks(data, dual_scores("stage2", text_UE, video_SE, np.arange(5), 5))[0]
        assert found == pytest.approx(100.0 * np.mean(ranks == 1))
        seen.add(found)
    assert len(seen) > 1


def test_a_clip_that_cannot_be_read_is_never_found(
    stage_world: StageWorld, tmp_path: Path, held_out: tuple[HeldOut, pd.DataFrame]
) -> None:
    source, _ = held_out
    shutil.copytree(source.media_root, tmp_path / "media")
    files = sorted((tmp_path / "media").glob("*.mp4"))
    for file in files[:-1]:
        file.unlink()
    task, _ = task_of(stage_world, tmp_path, source.model_copy(update={"media_root": tmp_path / "media"}))
    with torch.no_grad():
        assert task.scores()[VALIDATION_R1] == 20.0, "the one clip that is left, of five"
        files[-1].unlink()
        task, _ = task_of(stage_world, tmp_path, source.model_copy(update={"media_root": tmp_path / "media"}))
        assert task.scores()[VALIDATION_R1] == 0.0


def test_the_history_has_what_was_found_and_the_weights_are_the_same(
    stage_world: StageWorld, tmp_path: Path, held_out: tuple[HeldOut, pd.DataFrame]
) -> None:
    train = TrainConfig(epochs=3, batch_size=2, lr=1e-3, device="cpu", log_every=3)
    spec = make_spec(stage_world, tmp_path, train=train, held_out=held_out[0])
    looked = run(spec, tmp_path / "looked")
    plain = run(spec.model_copy(update={"held_out": None}), tmp_path / "plain")
    assert all(torch.equal(value, plain.weights()[name]) for name, value in looked.weights().items())
    found = looked.history.set_index("step")[VALIDATION_R1].dropna()
    assert found.index.tolist() == [2, 4, 6], "each of three epochs of two steps"
    assert looked.summary()[f"final_{VALIDATION_R1}"] == found.iloc[-1]
    assert looked.summary()["tflops"] == pytest.approx(plain.summary()["tflops"])
    assert VALIDATION_R1 not in plain.history


@pytest.mark.slow
def test_of_two_processes_the_first_looks_and_the_other_waits(
    stage_world: StageWorld, tmp_path: Path, held_out: tuple[HeldOut, pd.DataFrame]
) -> None:
    train = TrainConfig(epochs=2, batch_size=2, lr=1e-3, device="cpu", log_every=3, nproc=2)
    looked = run(make_spec(stage_world, tmp_path, train=train, held_out=held_out[0]), tmp_path / "run")
    assert looked.history.set_index("step")[VALIDATION_R1].dropna().index.tolist() == [2, 4]
