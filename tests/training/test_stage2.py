"""The four objectives on real batches, captions that cannot be used, and the unmasked phase."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from transformers import BertConfig, BertForMaskedLM

from tests.features.tiny import make_config
from tests.training.conftest import StageWorld, read_batch
from umt_pipeline.core.errors import CheckpointError, ConfigError, StoreError, TrainingError
from umt_pipeline.data.captions import CaptionSource, captioned_media
from umt_pipeline.data.mapped import write_mapped
from umt_pipeline.features.extract import plan_extraction
from umt_pipeline.features.manifest import read_manifest
from umt_pipeline.features.runner import extract
from umt_pipeline.losses import HardNegatives, hard_negatives
from umt_pipeline.models.flops_stage2 import video_text_macs
from umt_pipeline.models.folders import save_model
from umt_pipeline.models.student import KIND, untrained_student
from umt_pipeline.models.teacher import TeacherConfig, load_teacher
from umt_pipeline.models.text import TextConfig
from umt_pipeline.models.tokenizer import load_tokenizer, save_tokenizer, train_wordpiece
from umt_pipeline.models.video_text import VideoTextConfig, VideoTextModel
from umt_pipeline.models.vit import VideoViT
from umt_pipeline.pipelines.stage2.nodes import make_tokenizer
from umt_pipeline.training.launch import run
from umt_pipeline.training.loop import OnRow, train
from umt_pipeline.training.objectives import ObjectiveWeights
from umt_pipeline.training.optim import param_groups
from umt_pipeline.training.stage2 import Stage2Config, Stage2Spec, Stage2Task, TextSize
from umt_pipeline.training.state import Row
from umt_pipeline.training.task import LossParts, TrainConfig

CAPTIONS = [
    (0, "clip0", "a red ring"),
    (1, "clip0", "a ring, red"),
    (2, "clip1", "a blue star"),
    (3, "clip2", "not for training"),
    (4, "clip3", "two green squares"),
    (5, "clip4", "a red star"),
]
# The samples of images come first.
STILLS = [(10, "stills/0", "a picture of a ring"), (11, "stills/1", "a picture of a star"), (12, "stills/3", "red squares")]
OBJECTIVES = {"contrastive", "matching", "masked_language", "alignment"}
SETTINGS: dict[str, Any] = {
    "text": {"dim": 16, "layers": 2, "fusion_layer": 1, "heads": 2, "mlp_dim": 32, "max_length": 8, "vocab_size": 80},
    "embed_dim": 8,
    "train": {"epochs": 2, "batch_size": 4, "lr": 0.001},
    "corpora": {"stills": 0.0},
}


def table(rows: list[tuple[int, str, str]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["caption_id", "video_id", "caption"])


def make_spec(
    world: StageWorld, folder: Path, rows: list[tuple[int, str, str]] = CAPTIONS, **changes: Any
) -> Stage2Spec:
    """Write the tables and return a run without dropout; ``changes`` replaces any of its fields."""
    weights = ObjectiveWeights(**changes.pop("weights", {}))
    tokenizer = train_wordpiece([text for _, _, text in CAPTIONS + STILLS], 90)
    save_tokenizer(tokenizer, folder / "tokenizer")
    stills = any(video.startswith("stills") for _, video, _ in rows)
    corpora = changes.setdefault("corpora", {} if stills else {"stills": 0.0})
    samples, texts = captioned_media(world.videos, table(rows), "train", corpora)
    write_mapped(folder / "samples.arrow", samples)
    write_mapped(folder / "captions.arrow", texts)
    text = TextConfig(
        vocab_size=90, dim=16, layers=2, fusion_layer=1, heads=2, mlp_dim=32, max_positions=8, vision_dim=24, dropout=0.0
    )
    aligned = {"align_layers": 2, "target_dim": 16} if weights.alignment else {}
    fusion = changes.pop("fusion", {})
    config = VideoTextConfig(vision=world.student.vision, text=text, embed_dim=8, **aligned, **fusion)
    source = world.source.model_copy(update={"clips": folder / "samples.arrow", "aligned": weights.alignment > 0.0})
    media_root = Path(changes.pop("media_root", world.source.media_root))
    source = source.model_copy(update={"targets": changes.pop("targets", "cached"), "media_root": media_root})
    stores = changes.pop("stores", {"video": world.folder / "store", "image": world.folder / "image_store"})
    settings: dict[str, Any] = {
        "model": config,
        "weights": weights,
        "student": None,
        "text_tower": None,
        "captions": CaptionSource(
            samples=folder / "samples.arrow",
            captions=folder / "captions.arrow",
            tokenizer=folder / "tokenizer",
            max_length=changes.pop("max_length", 8),
        ),
        "sources": {kind: source.model_copy(update={"store": Path(store), "media": kind}) for kind, store in stores.items()},
        "teacher": "tiny",
        "train": TrainConfig(steps=1, batch_size=2, lr=1e-3, device="cpu"),
        "seed": 0,
    }
    return Stage2Spec.model_validate({**settings, **changes})


def build(world: StageWorld, folder: Path, rows: list[tuple[int, str, str]] = CAPTIONS, **changes: Any) -> Stage2Task:
    """Make the task; see :func:`make_spec`."""
    torch.manual_seed(0)
    return make_spec(world, folder, rows, **changes).build()


def loss(task: Stage2Task, indices: list[int], epoch: int = 0) -> LossParts:
    return task.loss(task.model, read_batch(task, indices, epoch), torch.Generator().manual_seed(3))


def assert_all_learn(task: Stage2Task, parts: LossParts) -> None:
    parts.total.backward()
    for name, parameter in task.model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, f"{name} takes no part: DDP would wait for it"
        assert parameter.grad is None or bool(parameter.grad.isfinite().all()), name


def test_the_loss_is_the_weighted_sum_of_its_parts(stage_world: StageWorld, tmp_path: Path) -> None:
    weights = {"contrastive": 1.0, "matching": 2.0, "masked_language": 0.5, "alignment": 3.0}
    task = build(stage_world, tmp_path, weights=weights)
    temperature = task.model.get_parameter("model.temp")
    temperature.data.fill_(0.9)
    result = loss(task, [0, 1, 2, 3])
    assert temperature.item() == result.parts["temperature"].item() == 0.5, "clamped at the start of each step"
    assert set(result.parts) == {*OBJECTIVES, "temperature", "matching_skipped"}
    assert result.total.item() == pytest.approx(sum(weights[name] * result.parts[name].item() for name in weights), rel=1e-5)
    assert all(result.parts[name] > 0.0 for name in OBJECTIVES)
    assert result.parts["matching_skipped"] == 0
    assert_all_learn(task, result)


@pytest.mark.parametrize("kept", [("contrastive",), ("matching",), ("masked_language",), ("alignment",), ()])
@pytest.mark.parametrize("pooled", [False, True])
def test_weight_zero_leaves_an_objective_out_and_freezes_what_it_alone_trains(
    stage_world: StageWorld, tmp_path: Path, kept: tuple[str, ...], pooled: bool
) -> None:
    for left_out in sorted(OBJECTIVES) if kept == () else [""]:
        on = set(kept) or OBJECTIVES - {left_out}
        weights = {name: float(name in on) for name in OBJECTIVES}
        task = build(stage_world, tmp_path, weights=weights, fusion={"pool": "attention", "fuse_pooled": pooled})
        result = loss(task, [0, 1, 2, 3])
        assert set(result.parts) & OBJECTIVES == on
        assert_all_learn(task, result)
        reads = "contrastive" in on or (pooled and bool(on & {"matching", "masked_language"}))
        assert task.model.get_parameter("model.attention_pool.key_value.weight").requires_grad == reads


def test_a_step_pools_each_clip_once(stage_world: StageWorld, tmp_path: Path) -> None:
    task = build(stage_world, tmp_path, fusion={"pool": "attention", "fuse_pooled": True})
    pools: list[object] = []
    task.model.get_submodule("model.attention_pool").register_forward_hook(lambda *_: pools.append(_))
    loss(task, [0, 1, 2, 3])
    assert len(pools) == 1


def test_the_clips_that_are_trained_on_are_no_validation_clips() -> None:
    with pytest.raises(ValidationError, match="validation_split is train"):
        Stage2Config.model_validate({**SETTINGS, "validation_split": "train"})


def test_a_stage_without_any_objective_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least one objective with a weight above 0"):
        Stage2Config.model_validate({**SETTINGS, "weights": dict.fromkeys(OBJECTIVES, 0.0)})


@pytest.mark.parametrize("indices", [[0, 0, 0], [2]])
def test_a_batch_of_one_video_skips_matching(stage_world: StageWorld, tmp_path: Path, indices: list[int]) -> None:
    task = build(stage_world, tmp_path)
    result = loss(task, indices)
    assert result.parts["matching_skipped"] == 1.0
    assert result.parts["matching"] == 0.0
    assert all(math.isfinite(value.item()) for value in result.parts.values())
    assert_all_learn(task, result)


def test_a_clip_without_a_usable_caption_is_not_trained_on(stage_world: StageWorld, tmp_path: Path) -> None:
    rows = [*(row for row in CAPTIONS if row[1] != "clip1"), (2, "clip1", "...")]
    task = build(stage_world, tmp_path, rows)
    assert len(task.dataset()) == 3
    batch = read_batch(task, [0, 1, 2])
    assert task.sample_ids(batch) == ["clip0", "clip3", "clip4"]
    assert bool((batch["mask"].sum(dim=1) > 2).all()), "a caption has more than [CLS] and [SEP]"


def test_no_usable_caption_at_all_is_an_error(stage_world: StageWorld, tmp_path: Path) -> None:
    rows = [(0, "clip0", "?!"), (1, "clip2", "not for training")]
    with pytest.raises(ConfigError, match=r"none of the media of split 'train' has a caption with words in it \(2 rows"):
        make_tokenizer(Stage2Config.model_validate(SETTINGS), stage_world.videos, table(rows), tmp_path)


def test_the_vocabulary_is_made_of_training_captions_only(stage_world: StageWorld, tmp_path: Path) -> None:
    rows = [(0, "clip0", "circle circle circle"), (1, "clip2", "zebra zebra zebra")]
    folder = make_tokenizer(Stage2Config.model_validate(SETTINGS), stage_world.videos, table(rows), tmp_path)
    words = load_tokenizer(folder).get_vocab()
    assert "circle" in words
    assert not any("z" in word for word in words)


def test_cached_and_online_tasks_have_the_same_loss(stage_world: StageWorld, tmp_path: Path) -> None:
    cached = build(stage_world, tmp_path, masked_epochs=1)
    online = build(stage_world, tmp_path, masked_epochs=1, targets="online")
    for epoch in range(2):
        online.setup(torch.device("cpu"))
        one, other = loss(cached, [3, 0, 1], epoch), loss(online, [3, 0, 1], epoch)
        torch.testing.assert_close(one.total, other.total, rtol=1e-3, atol=0.0)
        assert other.parts["unreadable"] == 0.0


def test_captions_change_with_the_epoch_and_repeat_with_it(stage_world: StageWorld, tmp_path: Path) -> None:
    task = build(stage_world, tmp_path)
    drawn = []
    for epoch in range(8):
        batch, again = (read_batch(task, indices, epoch) for indices in ([0, 2], [0]))
        assert (batch["ids"][0] == again["ids"][0]).all()
        drawn.append(tuple(batch["ids"][0].tolist()))
    assert len(set(drawn)) == 2, "clip0 has two captions"


def test_the_unmasked_phase_sees_every_patch_and_is_not_aligned(stage_world: StageWorld, tmp_path: Path) -> None:
    task = build(stage_world, tmp_path, masked_epochs=1)
    assert loss(task, [0, 1, 2], epoch=0).parts["alignment"] > 0.0
    seen: list[torch.Size] = []
    task.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1].shape))
    result = loss(task, [0, 1, 2], epoch=1)
    assert seen == [(1, stage_world.student.vision.frames * stage_world.student.vision.grid**2)], "one row for all clips"
    assert result.parts["alignment"] == 0.0
    assert_all_learn(task, result)


def test_the_unmasked_phase_needs_whole_frames(stage_world: StageWorld, tmp_path: Path) -> None:
    config = make_config(pixels="visible", views=1)
    teacher = load_teacher(stage_world.source.teacher, TeacherConfig(layers=2), 4)
    plan = plan_extraction(config, teacher, stage_world.videos)
    extract(config, teacher, plan, stage_world.source.media_root, tmp_path / "store")
    task = build(stage_world, tmp_path, masked_epochs=0, stores={"video": str(tmp_path / "store")})
    with pytest.raises(StoreError, match=r"set teacher_features\.pixels to frames"):
        loss(task, [0, 1])


def test_the_model_starts_from_the_student_and_the_control_does_not(stage_world: StageWorld, tmp_path: Path) -> None:
    student = untrained_student(stage_world.student, seed=5)
    (tmp_path / "student").mkdir()
    save_model(tmp_path / "student", student, student.config, KIND)
    started = build(stage_world, tmp_path, student=str(tmp_path / "student")).model.state_dict()
    control = build(stage_world, tmp_path).model.state_dict()
    weights = {f"model.{name}".replace("encoder", "vision", 1): value for name, value in student.state_dict().items()}
    assert all((started[name] == value).all() for name, value in weights.items())
    assert any((control[name] != value).any() for name, value in weights.items())


def test_more_unmasked_epochs_than_epochs_are_refused() -> None:
    assert Stage2Config.model_validate({**SETTINGS, "unmasked_epochs": 1}).masked_epochs == 1
    assert Stage2Config.model_validate(SETTINGS).masked_epochs is None
    with pytest.raises(ValidationError, match=r"unmasked_epochs 3 must not be more than train\.epochs, which is 2"):
        Stage2Config.model_validate({**SETTINGS, "unmasked_epochs": 3})


def test_a_store_without_frames_is_refused_before_training(stage_world: StageWorld) -> None:
    frames = read_manifest(stage_world.folder / "store")
    config = Stage2Config.model_validate({**SETTINGS, "unmasked_epochs": 1})
    config.model_for(stage_world.student, frames, vocab_size=32)
    with pytest.raises(ConfigError, match=r"unmasked_epochs is 1, but the feature store holds visible pixels"):
        config.model_for(stage_world.student, frames.model_copy(update={"pixels": "visible"}), vocab_size=32)


def test_a_student_of_any_width_is_taken_and_one_that_does_not_fit_the_store_is_refused(stage_world: StageWorld) -> None:
    header = read_manifest(stage_world.folder / "store")
    config, student = Stage2Config.model_validate(SETTINGS), stage_world.student
    wide = student.model_copy(update={"vision": student.vision.model_copy(update={"dim": 48})})
    model = config.model_for(wide, header, vocab_size=32)
    assert (model.vision.dim, model.text.vision_dim) == (48, 48)
    coarse = student.model_copy(update={"vision": student.vision.model_copy(update={"patch_size": 16})})
    with pytest.raises(ConfigError, match="student reads patches of 16 pixels, the feature store holds patches of 8"):
        config.model_for(coarse, header, vocab_size=32)
    other = student.model_copy(update={"target_dim": 512})
    with pytest.raises(ConfigError, match="aligned with 2 layers of width 512, the feature store holds 2 of width 16"):
        config.model_for(other, header, vocab_size=32)
    unaligned = Stage2Config.model_validate({**SETTINGS, "weights": {"alignment": 0.0}})
    assert unaligned.model_for(other, header, vocab_size=32).align_layers == 0


def test_positions_of_longer_and_finer_clips_are_interpolated(stage_world: StageWorld) -> None:
    header, config = read_manifest(stage_world.folder / "store"), Stage2Config.model_validate(SETTINGS)
    trained = stage_world.student.vision  # 2 frames of 32 pixels, as the store
    for frames, size, expected in ((2, 32, (None, None)), (1, 32, (None, None)), (4, 32, (2, None)), (2, 64, (None, 32))):
        view = header.view.model_copy(update={"frames": frames, "size": size})
        changed = header.model_copy(update={"view": view, "frames": frames, "grid": size // 8})
        vision = config.model_for(stage_world.student, changed, vocab_size=32).vision
        assert (vision.position_frames, vision.position_image_size) == expected
        assert VideoViT(vision).positions_AD.shape == (frames * (size // 8) ** 2, trained.dim)


def test_unmasked_epochs_need_whole_epochs_and_an_objective_that_works_in_them() -> None:
    train = {**SETTINGS["train"], "epochs": 2.5}
    with pytest.raises(ValidationError, match=r"train\.epochs must be a whole number, found 2\.5"):
        Stage2Config.model_validate({**SETTINGS, "train": train, "unmasked_epochs": 1})
    weights = {**dict.fromkeys(OBJECTIVES, 0.0), "alignment": 1.0}
    with pytest.raises(ValidationError, match="only alignment has a weight, which rests in unmasked epochs"):
        Stage2Config.model_validate({**SETTINGS, "weights": weights, "unmasked_epochs": 1})


def test_stochastic_depth_is_the_students_unless_set(stage_world: StageWorld) -> None:
    header, student = read_manifest(stage_world.folder / "store"), stage_world.student
    drops = student.model_copy(update={"vision": student.vision.model_copy(update={"drop_path": 0.2})})
    for setting, expected in ((None, 0.2), (0.1, 0.1)):
        config = Stage2Config.model_validate({**SETTINGS, "drop_path": setting})
        assert config.model_for(drops, header, vocab_size=32).vision.drop_path == expected


def test_negatives_are_uniform_where_nothing_trains_the_embeddings(
    stage_world: StageWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def spy(similarity: torch.Tensor, *rest: Any) -> HardNegatives:
        seen.append(similarity)
        return hard_negatives(similarity, *rest)

    monkeypatch.setattr("umt_pipeline.training.objectives.hard_negatives", spy)
    with torch.autocast("cpu", torch.bfloat16):
        for contrastive in (1.0, 0.0):
            loss(build(stage_world, tmp_path, weights={"contrastive": contrastive}), [0, 1, 2])
    assert [bool(similarity.any()) for similarity in seen] == [True, False]
    assert all(similarity.dtype == torch.float32 for similarity in seen)


SAME = [(0, "clip0", "a red ring"), (1, "clip1", "A red, ring."), (2, "clip3", "two green squares"), (3, "clip4", "a red ring")]


def test_samples_with_the_same_caption_are_no_negatives_of_each_other_but_under_parity(
    stage_world: StageWorld, tmp_path: Path
) -> None:
    ours, published = (build(stage_world, tmp_path, SAME, parity=parity) for parity in (False, True))
    # Three clips with one caption: there is no wrong pair, and nothing to tell apart.
    for task, skipped in ((ours, 1.0), (published, 0.0)):
        assert loss(task, [0, 1, 3]).parts["matching_skipped"] == skipped
    # Equal texts have equal vectors, so whose of them a clip's is makes no difference to the contrast, but for dropout.
    for indices in ([0, 1, 2], [0, 2]):
        torch.testing.assert_close(loss(ours, indices).parts["contrastive"], loss(published, indices).parts["contrastive"])


def test_parity_binds_a_run_to_the_number_of_processes() -> None:
    train = TrainConfig(epochs=1, batch_size=8, lr=1e-3, nproc=2)
    spec = Stage2Spec.model_construct(parity=True, train=train)
    spec.check_world(2)
    with pytest.raises(ConfigError, match=r"written down for `train.nproc` 2, found 4.*stage2.train.nproc=4"):
        spec.check_world(4)
    spec.model_copy(update={"parity": False}).check_world(4)


def test_parity_means_all_of_it() -> None:
    assert Stage2Config.model_validate({**SETTINGS, "parity": True}).parity
    for change in ({"pool": "attention"}, {"fuse_positions": True}, {"fuse_pooled": True}, {"unmasked_epochs": 1}):
        with pytest.raises(ValidationError, match="parity asks for what was published"):
            Stage2Config.model_validate({**SETTINGS, **change, "parity": True})


def test_a_pretrained_bert_of_another_vocabulary_is_refused(stage_world: StageWorld, tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    bert = BertForMaskedLM(BertConfig(vocab_size=91, max_position_embeddings=8, layer_norm_eps=1e-12, **sizes))
    bert.save_pretrained(tmp_path / "bert")
    config = Stage2Config.model_validate(
        {**SETTINGS, "text": {**SETTINGS["text"], "max_positions": 8, "pretrained": str(tmp_path / "bert")}}
    )
    model = config.model_for(stage_world.student, read_manifest(stage_world.folder / "store"), vocab_size=90)
    with pytest.raises(CheckpointError, match=r"text\.vocab_size is 90, checkpoint has 91"):
        VideoTextModel.create(model)
    with pytest.raises(ValidationError, match="max_length 9 is above max_positions 8"):
        TextSize.model_validate({**SETTINGS["text"], "max_length": 9, "max_positions": 8})


# --- images beside videos ---


def test_images_are_one_frame_videos_with_masks_and_alignment_of_their_own(stage_world: StageWorld, tmp_path: Path) -> None:
    task = build(stage_world, tmp_path, CAPTIONS + STILLS)
    assert [corpus.name for corpus in task.dataset().corpora()] == ["stills (image)", "tiny (video)"]
    seen: list[torch.Size] = []
    task.model.register_forward_pre_hook(lambda _, inputs: seen.append((inputs[1].shape, inputs[5])))
    stills, clips = loss(task, [0, 1, 2]), loss(task, [3, 4, 5])
    assert seen == [((3, 8), (1, 4)), ((3, 8), (2, 4))], "half of one frame of 16, a fifth of two, rounded up"
    assert set(stills.parts) == set(clips.parts), "the loop's averages need the same names at every step"
    assert stills.parts["alignment"] > 0.0
    assert_all_learn(task, stills)


def test_image_positions_are_those_of_the_first_frame(stage_world: StageWorld) -> None:
    encoder = VideoViT(stage_world.student.vision)
    places = torch.arange(16).expand(2, 16)
    assert torch.equal(encoder.positions(places, (1, 4)), encoder.positions(places))


def test_without_a_teacher_masks_stay(stage_world: StageWorld, tmp_path: Path) -> None:
    config = make_config(mask={"kind": "random"}, views=0)
    teacher = load_teacher(stage_world.source.teacher, TeacherConfig(layers=2), 4)
    plan = plan_extraction(config, teacher, stage_world.videos)
    extract(config, teacher, plan, stage_world.source.media_root, tmp_path / "store")
    changes = {"weights": {"alignment": 0.0}, "targets": "online", "stores": {"video": str(tmp_path / "store")}}
    task = build(stage_world, tmp_path, teacher=str(tmp_path / "no teacher"), **changes)
    seen: list[torch.Size] = []
    task.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1].shape))
    assert "alignment" not in loss(task, [0, 1]).parts
    assert seen == [(2, 8)]


def test_a_medium_that_cannot_be_read_is_replaced_with_caption_and_id(stage_world: StageWorld, tmp_path: Path) -> None:
    shutil.copytree(stage_world.source.media_root, tmp_path / "media")
    (tmp_path / "media" / "stills" / "1.jpg").write_bytes(b"gone")
    task = build(stage_world, tmp_path, CAPTIONS + STILLS, targets="online", media_root=str(tmp_path / "media"))
    task.setup(torch.device("cpu"))
    batch = read_batch(task, [0, 1])
    assert batch["unreadable"].tolist() == [0, 1]
    replaced = batch["clip"][1]
    assert replaced in ("stills/0", "stills/3"), "from the same corpus"
    other = ["stills/0", "stills/1", "stills/3"].index(replaced)
    expected = read_batch(task, [other])
    assert batch["media"][1] == expected["media"][0]
    assert batch["ids"][1].tolist() == expected["ids"][0].tolist()
    assert loss(task, [0, 1]).parts["unreadable"] == 0.5
    for file in (tmp_path / "media" / "stills").iterdir():
        file.unlink()
    with pytest.raises(TrainingError, match=r"corpus 'stills \(image\)': 10 media in a row cannot be read"):
        read_batch(task, [0])


def test_an_unknown_kind_of_media_is_refused(stage_world: StageWorld, tmp_path: Path) -> None:
    odd = stage_world._replace(videos=stage_world.videos.assign(media=stage_world.videos["media"].replace("image", "audio")))
    with pytest.raises(ConfigError, match="expected media of kind video or image, found audio"):
        build(odd, tmp_path, CAPTIONS + STILLS)


def test_media_that_the_store_lacks_are_named(stage_world: StageWorld, tmp_path: Path) -> None:
    stores = {"video": str(stage_world.folder / "image_store"), "image": str(stage_world.folder / "image_store")}
    with pytest.raises(ConfigError, match=r"corpus tiny \(video\): 4 of 4 media are not in the feature store, .*'clip0'"):
        build(stage_world, tmp_path, CAPTIONS + STILLS, stores=stores)


def test_arithmetic_is_counted_for_what_each_batch_is(stage_world: StageWorld, tmp_path: Path) -> None:
    cached = build(stage_world, tmp_path, CAPTIONS + STILLS, masked_epochs=1)
    online = build(stage_world, tmp_path, CAPTIONS + STILLS, masked_epochs=1, targets="online")
    config, weights = cached.model.model.config, ObjectiveWeights()
    unaligned = ObjectiveWeights(alignment=0.0)
    for index, number, visible, on in ((0, 0, 8, weights), (3, 0, 8, weights), (3, 1, 32, unaligned), (0, 1, 16, unaligned)):
        batch = read_batch(cached, [index], number)
        student = 6 * video_text_macs(config, visible, batch["ids"].shape[1], on).total
        assert cached.flops_per_clip(batch) == student
        teacher = online.providers[batch["group"]].teacher_macs() if number == 0 else 0
        assert online.flops_per_clip(batch) == student + 2 * teacher
        assert (teacher > 0) == (number == 0)


@pytest.mark.slow
def test_two_processes_train_on_videos_and_images(stage_world: StageWorld, tmp_path: Path) -> None:
    # Without matching and masked language much of the model is frozen, which DDP must not wait for.
    weights = {"matching": 0.0, "masked_language": 0.0}
    loop = TrainConfig(steps=6, batch_size=2, lr=1e-3, log_every=1, device="cpu", nproc=2)
    spec = make_spec(stage_world, tmp_path, CAPTIONS + STILLS, weights=weights, train=loop)
    rows = run(spec, tmp_path / "run").result.history
    assert [row["step"] for row in rows] == list(range(1, 7))
    assert all(math.isfinite(row["loss"]) and row["mfu"] > 0.0 for row in rows)


@pytest.mark.usefixtures("no_waits")
def test_a_run_of_images_and_videos_that_is_cut_goes_on_with_the_same_losses(
    stage_world: StageWorld, tmp_path: Path
) -> None:
    loop = {"steps": 12, "batch_size": 2, "lr": 1e-3, "log_every": 1, "checkpoint_every": 5, "device": "cpu"}
    def fit(folder: str, on_row: OnRow | None = None) -> list[Row]:
        task = build(stage_world, tmp_path, CAPTIONS + STILLS, corpora={"stills": 2.0})
        return train(task, TrainConfig.model_validate(loop), seed=1, run_dir=tmp_path / folder, on_row=on_row).history

    def stop(row: Row) -> None:
        if row["step"] == 8:
            raise KeyboardInterrupt

    whole = fit("whole")
    with pytest.raises(KeyboardInterrupt):
        fit("cut", stop)
    again = fit("cut")
    names = [*sorted(OBJECTIVES), "loss", "grad_norm"]
    assert [[row[name] for name in names] for row in again] == [[row[name] for name in names] for row in whole]


def test_text_layers_have_a_learning_rate_of_their_own(stage_world: StageWorld, tmp_path: Path) -> None:
    task = build(stage_world, tmp_path, text_lr_scale=0.25)
    groups = param_groups(task, 0.02)
    kinds = {(group["lr_scale"], group["weight_decay"]) for group in groups}
    assert kinds == {(1.0, 0.02), (1.0, 0.0), (0.25, 0.02), (0.25, 0.0)}
    slow = {id(param) for group in groups for param in group["params"] if group["lr_scale"] == 0.25}
    network = task.model.model
    text = [network.text.embeddings, network.text.layers[0], network.text_proj]
    assert slow == {id(param) for part in text for param in part.parameters()}, "fusion layers and heads learn at full speed"


def test_recomputing_and_layer_decay_act_on_the_video_encoder(stage_world: StageWorld, tmp_path: Path) -> None:
    task = build(stage_world, tmp_path)
    assert task.encoder() is task.model.model.vision
    groups = param_groups(task, 0.02, layer_decay=0.5)
    assert {group["lr_scale"] for group in groups} == {1.0, 0.5, 0.25, 0.125, 0.0625}
    patches = [group for group in groups for param in group["params"] if param is task.encoder().patch_embed.weight]
    assert [group["lr_scale"] for group in patches] == [0.0625]


def test_a_text_tower_and_a_published_bert_exclude_each_other() -> None:
    loop = {"steps": 1, "batch_size": 2, "lr": 0.1}
    text = {**SETTINGS["text"], "pretrained": "bert-base-uncased"}
    with pytest.raises(ValidationError, match=r"text\.pretrained is 'bert-base-uncased', so text_pretraining must be null"):
        Stage2Config.model_validate({**SETTINGS, "text": text, "text_pretraining": {"train": loop}})
