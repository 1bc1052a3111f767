"""The text tower trained on captions alone: its data, its losses, and that stage 2 starts from it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from tests.training.conftest import read_batch
from umt_pipeline.core.errors import CheckpointError
from umt_pipeline.data.captions import CaptionSource, captioned_media
from umt_pipeline.data.mapped import write_mapped
from umt_pipeline.models.folders import WEIGHTS_FILE
from umt_pipeline.models.text import TextConfig, TextModel
from umt_pipeline.models.tokenizer import save_tokenizer, train_wordpiece
from umt_pipeline.models.video_text import TextTower, VideoTextConfig, VideoTextModel
from umt_pipeline.models.vit import ViTConfig
from umt_pipeline.training.loop import train
from umt_pipeline.training.task import TrainConfig
from umt_pipeline.training.text_tower import TextObjectivesConfig, TextTask, TextTowerSpec

CAPTIONS = pd.DataFrame(
    [
        (0, "a", "a red ring"),
        (1, "a", "a ring, red"),
        (2, "b", "one blue star that is far away"),
        (3, "c", "..."),
        (4, "d", "green squares"),
        (5, "d", "squares of green"),
        (6, "d", "some green squares"),
    ],
    columns=["caption_id", "video_id", "caption"],
)
TEXT = TextConfig(
    vocab_size=90, dim=16, layers=3, fusion_layer=2, heads=2, mlp_dim=32, max_positions=16, vision_dim=24, dropout=0.0
)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    save_tokenizer(train_wordpiece(CAPTIONS["caption"], 90), tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def build(tokenizer: Path) -> TextTask:
    folder = tokenizer.parent
    videos = pd.DataFrame({"video_id": ["a", "b", "c", "d"]}).assign(
        split="train", media="video", corpus="tiny", path="a.mp4", num_frames=8, height=32, width=32
    )
    samples, texts = captioned_media(videos.assign(sha256=[name * 64 for name in "abcd"]), CAPTIONS)
    write_mapped(folder / "samples.arrow", samples)
    write_mapped(folder / "captions.arrow", texts)
    captions = CaptionSource(
        samples=folder / "samples.arrow", captions=folder / "captions.arrow", tokenizer=tokenizer, max_length=16
    )
    loop = TrainConfig(steps=1, batch_size=2, lr=0.1)
    spec = TextTowerSpec(
        text=TEXT, embed_dim=8, objectives=TextObjectivesConfig(), captions=captions, train=loop, seed=0
    )
    torch.manual_seed(0)
    return spec.build()


def test_the_loss_is_the_sum_of_both_objectives_and_reaches_every_trained_weight(tokenizer: Path) -> None:
    task = build(tokenizer)
    batch = read_batch(task, [0, 1, 2])
    assert batch["ids"].shape[:2] == (3, 2)
    result = task.loss(task.model, batch, torch.Generator().manual_seed(1))
    assert result.total.item() == pytest.approx(sum(part.item() for part in result.parts.values()))
    result.total.backward()
    for name, parameter in task.model.named_parameters():
        assert (parameter.grad is not None) == ("crossattention" not in name), name


def test_clips_with_a_caption_in_common_are_pulled_together(tokenizer: Path) -> None:
    task = build(tokenizer)
    batch = read_batch(task, [0, 1, 2])
    ids, mask = batch["ids"], batch["mask"].clone()
    twice = ids.clone()
    twice[1, 1], mask[1, 1] = ids[0, 0], mask[0, 0]  # the second caption of one clip is the first of another

    def paraphrase(media: list[int]) -> float:
        given = {**batch, "ids": twice, "mask": mask, "media": torch.tensor(media)}
        return task.loss(task.model, given, torch.Generator().manual_seed(1)).parts["paraphrase"].item()

    assert paraphrase([1, 2, 3]) == pytest.approx(paraphrase([1, 1, 3])), "as if they showed one medium"
    assert paraphrase([1, 2, 3]) != pytest.approx(paraphrase([1, 2, 2]))


def test_without_cross_attention_all_layers_are_plain_bert() -> None:
    torch.manual_seed(0)
    model = TextModel(TEXT).eval()
    ids, mask = torch.randint(5, 90, (2, 6)), torch.ones(2, 6, dtype=torch.bool)
    text, everything = model.read(ids, mask)
    torch.testing.assert_close(text, model.encode(ids, mask))
    with torch.no_grad():
        model.layers[2].crossattention.output.dense.weight.zero_()
        fused = model.fuse(text, mask, torch.randn(2, 4, 24))
    # Cross-attention that adds nothing leaves its own LayerNorm, which changes a normed vector only by its epsilon.
    torch.testing.assert_close(fused, everything, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("no_waits")
def test_it_learns_and_stage_2_starts_from_it(tokenizer: Path, tmp_path: Path) -> None:
    task = build(tokenizer)
    loop = TrainConfig(steps=60, batch_size=3, lr=5e-3, log_every=20)
    history = train(task, loop, seed=0, run_dir=tmp_path / "run").history
    assert history[-1]["paraphrase"] < 0.5 * history[0]["paraphrase"]
    assert history[-1]["masked_language"] < 0.8 * history[0]["masked_language"]
    weights = {name.removeprefix("tower."): value for name, value in task.model.state_dict().items()}
    (tmp_path / "tower").mkdir()
    save_file(weights, tmp_path / "tower" / WEIGHTS_FILE)
    vision = ViTConfig(image_size=32, patch_size=8, frames=2, dim=24, depth=2, heads=2)
    config = VideoTextConfig(vision=vision, text=TEXT, embed_dim=8)
    started = VideoTextModel.create(config, text_tower=tmp_path / "tower").state_dict()
    assert all(torch.equal(started[name], value) for name, value in weights.items())
    with pytest.raises(CheckpointError, match="text_proj"):
        VideoTextModel.create(config.model_copy(update={"embed_dim": 4}), text_tower=tmp_path / "tower")


def test_narrow_models_start_with_larger_weights() -> None:
    torch.manual_seed(0)
    wide, narrow = (TextTower(TEXT.model_copy(update={"dim": dim, "mlp_dim": dim}), 8).text for dim in (768, 48))
    assert wide.layers[0].attention.self.query.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert narrow.layers[0].attention.self.query.weight.std().item() == pytest.approx(0.08, rel=0.1)
