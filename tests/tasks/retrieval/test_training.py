"""Fine-tuning for retrieval: the stage-2 model's weights are taken over, whole clips are seen, a cut run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pytest
import torch

from tests.training.conftest import StageWorld, read_batch, stage_world
from umt_pipeline.core.errors import CheckpointError
from umt_pipeline.data.captions import CaptionSource, captioned_media
from umt_pipeline.data.mapped import write_mapped
from umt_pipeline.losses import hard_negatives, matching_loss, pair_logits, video_text_contrastive
from umt_pipeline.models.flops_stage2 import video_text_macs
from umt_pipeline.models.text import TextConfig
from umt_pipeline.models.tokenizer import train_wordpiece
from umt_pipeline.models.video_text import TOKENIZER_FOLDER, VideoTextConfig, VideoTextModel, load_video_text, save_video_text
from umt_pipeline.models.vit import position_table
from umt_pipeline.tasks.retrieval.training import RetrievalSpec, RetrievalTraining, RetrievalWeights
from umt_pipeline.training.loop import OnRow, train
from umt_pipeline.training.stage2 import Stage2Task
from umt_pipeline.training.state import Row
from umt_pipeline.training.task import TrainConfig
from umt_pipeline.video.pixels import normalise_patches, patchify

__all__ = ["stage_world"]

CAPTIONS = pd.DataFrame(
    [(0, "clip0", "a red ring"), (1, "clip0", "a ring"), (2, "clip1", "a blue star"), (3, "clip3", "two squares"),
     (4, "clip4", "a red star")],
    columns=["caption_id", "video_id", "caption"],
)  # fmt: skip
VIEW = {"frames": 2, "size": 32, "flip": False}


def save_start(world: StageWorld, folder: Path) -> Path:
    """Write a stage-2 model with alignment heads, as training leaves one behind."""
    tokenizer = train_wordpiece(CAPTIONS["caption"], 60)
    text = TextConfig(
        vocab_size=60, dim=16, layers=2, fusion_layer=1, heads=2, mlp_dim=32, max_positions=8, vision_dim=24, dropout=0.0
    )
    config = VideoTextConfig(vision=world.student.vision, text=text, embed_dim=8, align_layers=2, target_dim=16)
    torch.manual_seed(7)
    model = VideoTextModel.create(config)
    with torch.no_grad():
        model.temp.fill_(0.11)
    (folder / "start").mkdir(exist_ok=True)
    save_video_text(folder / "start", model, tokenizer)
    return folder / "start"


def make_spec(world: StageWorld, folder: Path, weights: RetrievalWeights | None = None, **tuning: Any) -> RetrievalSpec:
    """Write model and tables, and return a run."""
    start = save_start(world, folder)
    settings = RetrievalTraining.model_validate(
        {"view": VIEW, "train": {"steps": 1, "batch_size": 2, "lr": 1e-3}, **tuning}
    )
    videos = world.videos[world.videos["media"] == "video"]
    samples, texts = captioned_media(videos, CAPTIONS, "train", settings.corpora)
    write_mapped(folder / "samples.arrow", samples)
    write_mapped(folder / "captions.arrow", texts)
    before, _ = load_video_text(start)
    return RetrievalSpec(
        start=start,
        model=settings.model_for(before.config),
        weights=(weights or RetrievalWeights()).objectives(),
        pool=settings.pool,
        captions=CaptionSource(
            samples=folder / "samples.arrow",
            captions=folder / "captions.arrow",
            tokenizer=start / TOKENIZER_FOLDER,
            max_length=8,
        ),
        corpora=settings.corpora,
        media_root=world.source.media_root,
        view=settings.view,
        split="train",
        dataset_id="tiny",
        train=settings.train,
        seed=0,
    )


def build(world: StageWorld, folder: Path, weights: RetrievalWeights | None = None, **tuning: Any) -> Stage2Task:
    torch.manual_seed(0)
    return make_spec(world, folder, weights, **tuning).build()


@pytest.mark.parametrize("pool", ["clip", "frame"])
def test_the_first_losses_are_those_of_the_stage_2_model(
    stage_world: StageWorld, tmp_path: Path, pool: Literal["clip", "frame"]
) -> None:
    task = build(stage_world, tmp_path, pool=pool)
    batch = read_batch(task, [0, 1, 2, 3])
    found = task.loss(task.model, batch, torch.Generator().manual_seed(3)).parts
    model, _ = load_video_text(tmp_path / "start")
    patches = normalise_patches(patchify(batch["frames"], 8))
    places = torch.arange(patches.shape[1]).expand(4, -1)
    with torch.no_grad():
        tokens, video = model.encode_video(patches, places, pool)
        video = video.mean(dim=1) if pool == "frame" else video
        words, text = model.encode_text(batch["ids"], batch["mask"])
        contrastive = video_text_contrastive(video, text, 0.11, batch["media"])
        similarity = pair_logits(video, text, torch.tensor(0.11))
        negatives = hard_negatives(similarity, batch["media"], torch.Generator().manual_seed(3))
        rows = torch.arange(4)
        pairs = [(words, rows), (words, negatives.video_B), (words[negatives.text_B], rows)]
        masks = [batch["mask"], batch["mask"], batch["mask"][negatives.text_B]]
        logits = [model.match_logits(t, mask, tokens, clips) for (t, clips), mask in zip(pairs, masks, strict=True)]
        matching, _ = matching_loss(torch.cat(logits))
    assert found["temperature"].item() == pytest.approx(0.11)
    torch.testing.assert_close(found["contrastive"], contrastive)
    torch.testing.assert_close(found["matching"], matching)


def test_clips_with_the_same_caption_are_no_negatives_of_each_other(
    stage_world: StageWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = CAPTIONS.assign(caption=["a red star", "a red star", "a blue star", "two squares", "A red star!"])
    monkeypatch.setitem(globals(), "CAPTIONS", same)
    task = build(stage_world, tmp_path)
    skipped = [
        task.loss(task.model, read_batch(task, rows), torch.Generator().manual_seed(3)).parts["matching_skipped"].item()
        for rows in ([0, 3], [0, 1], [0, 1, 3])
    ]
    assert skipped == [1.0, 0.0, 0.0]


@pytest.mark.usefixtures("no_waits")
def test_a_run_begins_there_and_a_cut_run_goes_on_with_the_same_losses(stage_world: StageWorld, tmp_path: Path) -> None:
    loop = {"steps": 6, "batch_size": 2, "lr": 1e-3, "log_every": 1, "checkpoint_every": 2, "device": "cpu"}

    def fit(folder: str, on_row: OnRow | None = None) -> list[Row]:
        task = build(stage_world, tmp_path)
        return train(task, TrainConfig.model_validate(loop), seed=1, run_dir=tmp_path / folder, on_row=on_row).history

    def stop(row: Row) -> None:
        if row["step"] == 5:
            raise KeyboardInterrupt

    whole = fit("whole")
    assert whole[0]["temperature"] == pytest.approx(0.11)
    with pytest.raises(KeyboardInterrupt):
        fit("cut", stop)
    names = ["loss", "contrastive", "matching", "grad_norm"]
    assert [[row[name] for name in names] for row in fit("cut")] == [[row[name] for name in names] for row in whole]


def test_all_weights_are_taken_over_but_the_alignment_heads(stage_world: StageWorld, tmp_path: Path) -> None:
    task = build(stage_world, tmp_path)
    before, _ = load_video_text(tmp_path / "start")
    kept = {f"model.{name}": tensor for name, tensor in before.state_dict().items() if not name.startswith("heads.")}
    found = task.model.state_dict()
    assert found.keys() == kept.keys()
    assert len(before.state_dict()) > len(kept)
    assert all(torch.equal(tensor, found[name]) for name, tensor in kept.items())


def test_a_model_of_other_sizes_is_refused(stage_world: StageWorld, tmp_path: Path) -> None:
    given = make_spec(stage_world, tmp_path)
    other = given.model_copy(update={"model": given.model.model_copy(update={"embed_dim": 16})})
    with pytest.raises(CheckpointError, match=r"start does not fit VideoTextModel: .*vision_proj\.weight is \(8, 24\)"):
        other.build()


@pytest.mark.parametrize(("frames", "size"), [(2, 32), (4, 32), (4, 64)])
def test_every_patch_is_seen_and_positions_are_interpolated(
    stage_world: StageWorld, tmp_path: Path, frames: int, size: int
) -> None:
    task = build(stage_world, tmp_path, view={"frames": frames, "size": size, "flip": False}, drop_path=0.1)
    seen: list[torch.Size] = []
    task.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    parts = task.loss(task.model, read_batch(task, [0, 1]), torch.Generator().manual_seed(0))
    tokens = frames * (size // 8) ** 2
    assert seen == [(2, tokens, 192)]
    assert set(parts.parts) == {"contrastive", "matching", "matching_skipped", "temperature", "unreadable"}
    vision = task.encoder()
    assert vision.config.drop_path == 0.1
    torch.testing.assert_close(vision.positions_AD, position_table(24, 2, 4, frames, size // 8))
    config, weights = task.model.model.config, RetrievalWeights().objectives()
    batch = read_batch(task, [0])
    assert task.flops_per_clip(batch) == 6 * video_text_macs(config, tokens, batch["ids"].shape[1], weights).total


@pytest.mark.parametrize("off", [None, "contrastive", "matching"])
def test_what_no_objective_trains_is_frozen(stage_world: StageWorld, tmp_path: Path, off: str | None) -> None:
    task = build(stage_world, tmp_path, RetrievalWeights.model_validate({off: 0.0} if off else {}))
    task.loss(task.model, read_batch(task, [0, 1, 2]), torch.Generator().manual_seed(0)).total.backward()
    for name, parameter in task.model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, f"{name} takes no part: DDP would wait for it"
    assert not any(p.requires_grad for name, p in task.model.named_parameters() if "mlm" in name)


def test_an_epoch_draws_a_clip_as_often_as_its_corpus_says(stage_world: StageWorld, tmp_path: Path) -> None:
    (corpus,) = build(stage_world, tmp_path, corpora={"tiny": 20.0}).dataset().corpora()
    assert (corpus.name, corpus.size, corpus.weight) == ("tiny (video)", 4, 20.0)


def test_each_pass_draws_another_view(stage_world: StageWorld, tmp_path: Path) -> None:
    task = build(stage_world, tmp_path)
    first, again, second = (read_batch(task, [3], number) for number in (0, 0, 1))
    assert torch.equal(first["frames"], again["frames"])
    assert not torch.equal(first["frames"], second["frames"])
