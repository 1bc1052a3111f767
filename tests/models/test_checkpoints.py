"""Published checkpoint files: containers, prefixes, key names, and refusal of everything that does not fit."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from umt_pipeline.core.errors import CheckpointError
from umt_pipeline.exchange.published import load_renamed
from umt_pipeline.models.checkpoints import (
    any_encoder_from_published,
    classifier_from_published,
    classifier_to_published,
    encoder_to_published,
    fuse_biases,
    question_answering_from_published,
    question_answering_to_published,
    strip_prefix,
    student_from_published,
    student_to_published,
    video_text_from_published,
    video_text_to_published,
)
from umt_pipeline.models.containers import read_checkpoint
from umt_pipeline.models.folders import LoadReport
from umt_pipeline.models.student import Student, StudentConfig
from umt_pipeline.models.text import TextConfig
from umt_pipeline.models.video_text import VideoTextConfig, VideoTextModel
from umt_pipeline.models.vit import VideoViT, ViTConfig, position_table
from umt_pipeline.tasks.classification.model import Classifier, ClassifierConfig
from umt_pipeline.tasks.question_answering.model import QuestionAnsweringConfig, QuestionAnsweringModel

PATCH = 8
VISION = ViTConfig(image_size=16, patch_size=PATCH, frames=2, dim=12, depth=2, heads=2)
TEXT = TextConfig(vocab_size=20, dim=8, layers=2, fusion_layer=1, heads=2, mlp_dim=16, max_positions=6, vision_dim=12)
STUDENT = StudentConfig(vision=VISION, align_layers=2, target_dim=6)
CLASSIFIER = ClassifierConfig(vision=VISION, classes=5)
VIDEO_TEXT = VideoTextConfig(vision=VISION, text=TEXT, embed_dim=4, align_layers=2, target_dim=6)
ANSWERING = QuestionAnsweringConfig(vision=VISION, text=TEXT)

# Names written out here, not derived from the code under test.
STAGE1_KEYS = {
    "encoder.patch_embed.proj.weight": (12, 3, 1, PATCH, PATCH),
    "encoder.blocks.1.attn.qkv.weight": (36, 12),
    "encoder.blocks.0.attn.q_bias": (12,),
    "encoder.norm.bias": (12,),
    "clip_decoder.1.head.weight": (6, 12),
    "clip_decoder.0.norm.bias": (6,),
}
CLASSIFIER_KEYS = {
    "patch_embed.proj.weight": (12, 3, 1, PATCH, PATCH),
    "blocks.1.mlp.fc1.weight": (48, 12),
    "fc_norm.weight": (12,),
    "head.weight": (5, 12),
    "head.bias": (5,),
}
STAGE2_KEYS = {
    "temp": (),
    "itm_head.weight": (2, 8),
    "vision_proj.bias": (4,),
    "vision_encoder.encoder.patch_embed.proj.weight": (12, 3, 1, PATCH, PATCH),
    "vision_encoder.clip_decoder.0.head.bias": (6,),
    "vision_encoder.pool_norm.weight": (12,),
    "text_encoder.bert.embeddings.LayerNorm.weight": (8,),
    "text_encoder.bert.encoder.layer.0.attention.self.query.weight": (8, 8),
    "text_encoder.bert.encoder.layer.1.crossattention.self.key.weight": (8, 12),
    "text_encoder.cls.predictions.decoder.weight": (20, 8),
    "text_encoder.cls.predictions.transform.dense.bias": (8,),
}
# All text keys of a question-answering file of these sizes: one text layer, one fusion layer, one decoder layer.
BERT_LAYER = {
    "attention.self.query.weight": (8, 8), "attention.self.query.bias": (8,),
    "attention.self.key.weight": (8, 8), "attention.self.key.bias": (8,),
    "attention.self.value.weight": (8, 8), "attention.self.value.bias": (8,),
    "attention.output.dense.weight": (8, 8), "attention.output.dense.bias": (8,),
    "attention.output.LayerNorm.weight": (8,), "attention.output.LayerNorm.bias": (8,),
    "intermediate.dense.weight": (16, 8), "intermediate.dense.bias": (16,),
    "output.dense.weight": (8, 16), "output.dense.bias": (8,),
    "output.LayerNorm.weight": (8,), "output.LayerNorm.bias": (8,),
}  # fmt: skip
BERT_EMBEDDINGS = {
    "embeddings.position_ids": (1, 6), "embeddings.word_embeddings.weight": (20, 8),
    "embeddings.position_embeddings.weight": (6, 8), "embeddings.token_type_embeddings.weight": (2, 8),
    "embeddings.LayerNorm.weight": (8,), "embeddings.LayerNorm.bias": (8,),
}  # fmt: skip
BERT_HEAD = {
    "bias": (20,), "transform.dense.weight": (8, 8), "transform.dense.bias": (8,),
    "transform.LayerNorm.weight": (8,), "transform.LayerNorm.bias": (8,),
    "decoder.weight": (20, 8), "decoder.bias": (20,),
}  # fmt: skip


def cross_attention(width: int) -> dict[str, tuple[int, ...]]:
    inputs = {f"crossattention.self.{name}.weight": (8, width) for name in ("key", "value")}
    others = {
        f"crossattention.{name}": BERT_LAYER[f"attention.{name}"]
        for name in (key.removeprefix("attention.") for key in BERT_LAYER if key.startswith("attention."))
    }
    return others | inputs


def answering_keys(bert: str = "") -> dict[str, tuple[int, ...]]:
    encoder, decoder = f"text_encoder.{bert}", "text_decoder.bert."
    layers = {
        f"{encoder}encoder.layer.0": BERT_LAYER,
        f"{encoder}encoder.layer.1": BERT_LAYER | cross_attention(12),
        f"{decoder}encoder.layer.0": BERT_LAYER | cross_attention(8),
        "text_decoder.cls.predictions": BERT_HEAD,
    }
    keys = {f"{prefix}.{name}": shape for prefix, group in layers.items() for name, shape in group.items()}
    return keys | {f"{prefix}{name}": shape for prefix in (encoder, decoder) for name, shape in BERT_EMBEDDINGS.items()}


def answering_state(bert: str = "") -> dict[str, Tensor]:
    """A file's weights made from the written-out names alone."""
    source = torch.Generator().manual_seed(7)
    state = {key: torch.randn(shape, generator=source) for key, shape in answering_keys(bert).items()}
    for prefix in (f"text_encoder.{bert}", "text_decoder.bert."):
        state[f"{prefix}embeddings.position_ids"] = torch.arange(6).unsqueeze(0)
    cls = "text_decoder.cls.predictions."
    state[f"{cls}decoder.weight"] = state["text_decoder.bert.embeddings.word_embeddings.weight"].clone()
    state[f"{cls}decoder.bias"] = state[f"{cls}bias"].clone()
    vision = {key: tensor for key, tensor in stage2_state().items() if key.startswith("vision_encoder.encoder.")}
    return vision | state


def stage1_state() -> dict[str, Tensor]:
    return student_to_published(Student(STUDENT).state_dict(), PATCH)


def stage2_state() -> dict[str, Tensor]:
    state = video_text_to_published(VideoTextModel(VIDEO_TEXT).state_dict(), PATCH)
    return state | {"text_encoder.bert.embeddings.position_ids": torch.arange(6).unsqueeze(0)}


def classifier_state(model: Classifier | None = None) -> dict[str, Tensor]:
    return classifier_to_published((model or Classifier(CLASSIFIER)).state_dict(), PATCH)


def save(folder: Path, content: Any) -> Path:
    torch.save(content, folder / "published.pth")
    return folder / "published.pth"


def load(model: nn.Module, path: Path, **allowed: Any) -> LoadReport:
    """Read, rename and load, as `umt import-checkpoint` does."""
    renames = {
        Student: student_from_published,
        Classifier: classifier_from_published,
        VideoViT: any_encoder_from_published,
        VideoTextModel: video_text_from_published,
        QuestionAnsweringModel: question_answering_from_published,
    }
    return load_renamed(model, renames[type(model)](read_checkpoint(path)), source=str(path), **allowed)  # type: ignore[index]


def assert_same(model: nn.Module, other: nn.Module) -> None:
    own, expected = model.state_dict(), other.state_dict()
    assert own.keys() == expected.keys()
    assert all(torch.equal(own[key], expected[key]) for key in own)


def test_names_and_shapes_are_the_published_ones() -> None:
    states = (stage1_state(), STAGE1_KEYS), (classifier_state(), CLASSIFIER_KEYS), (stage2_state(), STAGE2_KEYS)
    for state, expected in states:
        assert {key: tuple(state[key].shape) for key in expected} == expected


def wrapped(state: dict[str, Tensor], kind: str) -> Any:
    return {
        "bare": state,
        "model": {"model": state, "epoch": 3, "args": argparse.Namespace(lr=1.0)},
        "module": {"module": state},
        "prefixed": {f"module.{key}": tensor for key, tensor in state.items()},
    }[kind]


@pytest.mark.parametrize("kind", ["bare", "model", "module", "prefixed"])
def test_stage1_files_load_in_any_container(tmp_path: Path, kind: str) -> None:
    source, target = Student(STUDENT), Student(STUDENT)
    path = save(tmp_path, wrapped(student_to_published(source.state_dict(), PATCH), kind))
    load(target, path)
    assert_same(target, source)


@pytest.mark.parametrize("prefix", ["", "module.", "encoder.", "backbone.", "module.backbone."])
def test_classifier_files_load_behind_any_prefix(tmp_path: Path, prefix: str) -> None:
    source, target = Classifier(CLASSIFIER), Classifier(CLASSIFIER)
    state = {prefix + key: tensor for key, tensor in classifier_state(source).items()}
    report = load(target, save(tmp_path, {"model": state}))
    assert_same(target, source)
    assert not report.missing
    assert not report.unexpected


def test_a_patch_convolution_may_have_four_axes(tmp_path: Path) -> None:
    source, target = Student(STUDENT), Student(STUDENT)
    state = student_to_published(source.state_dict(), PATCH)
    state["encoder.patch_embed.proj.weight"] = state["encoder.patch_embed.proj.weight"].squeeze(2)
    assert state["encoder.patch_embed.proj.weight"].shape == (12, 3, PATCH, PATCH)
    load(target, save(tmp_path, state))
    assert_same(target, source)


@pytest.mark.parametrize("part", ["student", "classifier", "encoder"])
def test_fused_biases_are_split_and_joined_again(tmp_path: Path, part: str) -> None:
    models: dict[str, Any] = {
        "student": (Student, STUDENT, student_to_published),
        "classifier": (Classifier, CLASSIFIER, classifier_to_published),
        "encoder": (VideoViT, VISION, encoder_to_published),
    }
    build, config, publish = models[part]
    source, target = build(config), build(config)
    for name, parameter in source.named_parameters():
        if name.endswith(("q_bias", "v_bias")):
            torch.nn.init.normal_(parameter)
    fused = fuse_biases(publish(source.state_dict(), PATCH))
    biases = {key: tensor for key, tensor in fused.items() if key.endswith("blocks.1.attn.qkv.bias")}
    assert [tuple(bias.shape) for bias in biases.values()] == [(36,)]
    assert not any(key.endswith(("q_bias", "v_bias")) for key in fused)
    load(target, save(tmp_path, fused))
    assert_same(target, source)


def test_a_bias_of_the_keys_is_refused_with_its_largest_value(tmp_path: Path) -> None:
    state = fuse_biases(stage1_state())
    state["encoder.blocks.1.attn.qkv.bias"][12:24] = torch.linspace(-0.25, 0.125, 12)
    with pytest.raises(CheckpointError, match=r"blocks\.1\.attn\.qkv\.bias: .*must be zero.*largest value there is 0\.25"):
        load(Student(STUDENT), save(tmp_path, state))
    state = fuse_biases(stage1_state()) | {"encoder.blocks.0.attn.v_bias": torch.zeros(12)}
    with pytest.raises(CheckpointError, match=r"blocks\.0\.attn\.qkv\.bias and blocks\.0\.attn\.v_bias are both there"):
        load(Student(STUDENT), save(tmp_path, state))


@pytest.mark.parametrize(("frames", "image_size"), [(4, 16), (2, 32), (4, 32), (2, 16)])
def test_a_position_table_that_can_be_computed_is_left_out(tmp_path: Path, frames: int, image_size: int) -> None:
    """Files fine-tuned at another clip size hold the interpolated table, which is a constant."""
    vision = VISION.model_copy(
        update={"frames": frames, "image_size": image_size, "position_frames": 2, "position_image_size": 16}
    )
    source, target = (Classifier(ClassifierConfig(vision=vision, classes=5)) for _ in range(2))
    table = position_table(12, 2, 2, frames, image_size // PATCH).unsqueeze(0)
    for stored in (table, table.half(), table.bfloat16()):
        path = save(tmp_path, classifier_state(source) | {"pos_embed": stored})
        assert load(target, path).unexpected == ("encoder.pos_embed",)
        assert_same(target, source)


def test_another_position_table_is_refused(tmp_path: Path) -> None:
    table = position_table(12, 2, 2, 2, 2).unsqueeze(0)
    learned = table.clone()
    learned[0, 3, 5] += 0.01
    with pytest.raises(CheckpointError, match=r"pos_embed differs from .* by up to 0\.01: it was learned"):
        load(Classifier(CLASSIFIER), save(tmp_path, classifier_state() | {"pos_embed": learned}))
    learned[0, 3, 5] = torch.nan
    with pytest.raises(CheckpointError, match="by up to nan"):
        load(Classifier(CLASSIFIER), save(tmp_path, classifier_state() | {"pos_embed": learned}))
    long = position_table(12, 2, 2, 4, 2).unsqueeze(0)
    with pytest.raises(CheckpointError, match=r"is \(1, 16, 12\), expected \(1, 8, 12\) for 2 frames of 2 x 2"):
        load(Classifier(CLASSIFIER), save(tmp_path, classifier_state() | {"pos_embed": long}))
    state = stage1_state() | {"encoder.pos_embed": torch.zeros(1, 8, 12)}
    with pytest.raises(CheckpointError, match="it was learned"):
        load(Student(STUDENT), save(tmp_path, state))


@pytest.mark.parametrize("prefix", ["encoder.", "backbone.", "module.encoder.", "vision_encoder.encoder.", ""])
def test_the_encoder_alone_loads_from_any_file(tmp_path: Path, prefix: str) -> None:
    student, target = Student(STUDENT), VideoViT(VISION)
    state = student_to_published(student.state_dict(), PATCH)
    encoder = {prefix + key.removeprefix("encoder."): t for key, t in state.items() if key.startswith("encoder.")}
    others = {"clip_decoder.0.head.bias": torch.zeros(6)} if "encoder" in prefix else {}
    report = load(target, save(tmp_path, encoder | others))
    assert_same(target, student.encoder)
    assert len(report.unexpected) == len(others)


def test_stage2_files_load_with_and_without_the_bert_part_of_the_name(tmp_path: Path) -> None:
    pretrained = stage2_state()
    finetuned = {
        key.replace("text_encoder.bert.", "text_encoder."): tensor
        for key, tensor in pretrained.items()
        if ".cls." not in key and "clip_decoder" not in key
    }
    first, second = VideoTextModel(VIDEO_TEXT), VideoTextModel(VIDEO_TEXT)
    assert not load(first, save(tmp_path, pretrained)).missing
    report = load(second, save(tmp_path, finetuned))
    assert report.missing
    assert all(key.startswith(("heads.", "text.mlm_")) for key in report.missing)
    assert torch.equal(first.text.layers[1].output.dense.weight, second.text.layers[1].output.dense.weight)


def test_half_a_language_head_is_an_error(tmp_path: Path) -> None:
    state = stage2_state()
    del state["text_encoder.cls.predictions.transform.dense.weight"]
    with pytest.raises(CheckpointError, match=r"1 missing \(text\.mlm_transform\.dense\.weight\)"):
        load(VideoTextModel(VIDEO_TEXT), save(tmp_path, state))


def test_a_teacher_in_the_file_is_left_out_and_reported(tmp_path: Path) -> None:
    teacher = {
        "clip_teacher.class_embedding": torch.zeros(4),
        "clip_teacher.conv1.weight": torch.zeros(4, 3, 1, 2, 2),
        "clip_teacher.transformer.resblocks.0.attn.in_proj_weight": torch.zeros(12, 4),
    }
    report = load(VideoTextModel(VIDEO_TEXT), save(tmp_path, {"model": stage2_state() | teacher}))
    assert report.unexpected == tuple(sorted(teacher))
    assert "left out: the frozen teacher (clip_teacher.*, tensors: 3)" in report.lines()[-1]
    encoder = load(VideoViT(VISION), save(tmp_path, stage2_state() | teacher))
    assert "left out: the frozen teacher (clip_teacher.*, tensors: 3)" in encoder.lines()[-1]
    strange = stage2_state() | teacher | {"clip_teacher.adapter.weight": torch.zeros(4)}
    with pytest.raises(CheckpointError, match=r"1 unexpected \(clip_teacher\.adapter\.weight\)"):
        load(VideoTextModel(VIDEO_TEXT), save(tmp_path, strange))


@pytest.mark.parametrize("kind", ["bare", "model", "module", "prefixed"])
@pytest.mark.parametrize("bert", ["", "bert."])
def test_question_answering_files_load_by_the_published_names(tmp_path: Path, kind: str, bert: str) -> None:
    state, model = answering_state(bert), QuestionAnsweringModel(ANSWERING)
    report = load(model, save(tmp_path, wrapped(state, kind)))
    assert (report.missing, report.unexpected) == ((), ())
    assert torch.equal(
        model.decoder.layers[0].crossattention.self.key.weight,  # type: ignore[union-attr]
        state["text_decoder.bert.encoder.layer.0.crossattention.self.key.weight"],
    )
    published = question_answering_to_published(model.state_dict(), PATCH)
    expected = {
        key.replace("text_encoder.bert.", "text_encoder."): tensor
        for key, tensor in state.items()
        if not key.endswith("position_ids")
    }
    assert published.keys() == expected.keys()
    assert all(torch.equal(published[key], expected[key]) for key in expected)


def test_what_of_a_question_answering_file_does_not_fit_is_named(tmp_path: Path) -> None:
    state = answering_state() | {"vision_proj.bias": torch.zeros(4)}
    del state["text_decoder.bert.encoder.layer.0.attention.self.key.bias"]
    with pytest.raises(CheckpointError) as error:
        load(QuestionAnsweringModel(ANSWERING), save(tmp_path, state))
    assert "1 missing (decoder.layers.0.attention.self.key.bias); 1 unexpected (vision_proj.bias)" in str(error.value)
    state = answering_state()
    state["text_decoder.cls.predictions.decoder.bias"] += 1.0
    with pytest.raises(CheckpointError, match="is not a copy of cls"):
        load(QuestionAnsweringModel(ANSWERING), save(tmp_path, state))


def test_a_retrieval_file_goes_out_as_one(tmp_path: Path) -> None:
    """No masked-language head, no alignment heads, no ``bert.``: bit by bit."""
    config = VIDEO_TEXT.model_copy(update={"align_layers": 0, "target_dim": 0})
    state = VideoTextModel(config).state_dict()
    fine_tuned = {key: tensor for key, tensor in state.items() if "mlm_" not in key}
    published = video_text_to_published(fine_tuned, PATCH)
    assert "text_encoder.encoder.layer.1.crossattention.self.key.weight" in published
    assert not [key for key in published if ".bert." in key or ".cls." in key]
    model = VideoTextModel(config)
    report = load(model, save(tmp_path, published))
    assert all(key.startswith("text.mlm_") for key in report.missing)
    assert len(report.missing) == 5
    assert "masked-language head has random weights" in report.lines()[-1]
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in fine_tuned.items())


def test_a_question_answering_file_is_refused_by_its_keys(tmp_path: Path) -> None:
    state = stage2_state() | {"text_decoder.cls.predictions.bias": torch.zeros(20)}
    with pytest.raises(CheckpointError, match=r"1 unexpected \(text_decoder\.cls\.predictions\.bias\)"):
        load(VideoTextModel(VIDEO_TEXT), save(tmp_path, state))


def test_an_untied_output_matrix_is_refused(tmp_path: Path) -> None:
    state = stage2_state()
    state["text_encoder.cls.predictions.decoder.weight"] = torch.ones(20, 8)
    with pytest.raises(CheckpointError, match="is not a copy"):
        load(VideoTextModel(VIDEO_TEXT), save(tmp_path, state))


def test_a_temporal_patch_kernel_is_refused(tmp_path: Path) -> None:
    state = stage1_state()
    state["encoder.patch_embed.proj.weight"] = torch.zeros(12, 3, 2, PATCH, PATCH)
    with pytest.raises(CheckpointError, match=r"is \(12, 3, 2, 8, 8\): tubelets of one frame are needed, found 2"):
        load(Student(STUDENT), save(tmp_path, state))
    state["encoder.patch_embed.proj.weight"] = torch.zeros(12, 1, PATCH, PATCH)
    with pytest.raises(CheckpointError, match=r"is \(12, 1, 8, 8\): expected \[D, 3, 1, ps, ps\]"):
        load(Student(STUDENT), save(tmp_path, state))


def test_a_wrong_shape_is_named(tmp_path: Path) -> None:
    state = stage1_state() | {"encoder.norm.bias": torch.zeros(13)}
    with pytest.raises(CheckpointError, match=r"encoder\.norm\.bias is \(13,\), expected \(12,\)"):
        load(Student(STUDENT), save(tmp_path, state))


def test_all_that_does_not_fit_is_listed_at_once(tmp_path: Path) -> None:
    state = classifier_state() | {"norm.weight": torch.ones(12), "head.weight": torch.zeros(5, 13)}
    del state["fc_norm.bias"]
    with pytest.raises(CheckpointError) as error:
        load(Classifier(CLASSIFIER), save(tmp_path, state))
    for part in ("1 missing (fc_norm.bias)", "1 unexpected (norm.weight)", "head.weight is (5, 13), expected (5, 12)"):
        assert part in str(error.value)
    narrow = Classifier(ClassifierConfig(vision=VISION.model_copy(update={"dim": 8}), classes=5))
    with pytest.raises(CheckpointError, match=r"1 keys matched; 0 missing; 0 unexpected; 31 mis-shaped"):
        load(narrow, save(tmp_path, classifier_state()))


def test_what_is_allowed_is_reported() -> None:
    state = {"fc_norm.weight": torch.ones(12), "extra.x": torch.ones(1)}
    report = load_renamed(
        Classifier(CLASSIFIER), state, source="x", allow_missing=("encoder.*", "head.*", "fc_norm.bias"),
        allow_unexpected=("extra.*",),
    )  # fmt: skip
    assert report.matched == ("fc_norm.weight",)
    lines = report.lines()
    assert lines[0] == "1 keys matched, 31 missing, 1 unexpected, 0 mis-shaped"
    assert lines[2] == "allowed: 1 unexpected (extra.x)"
    with pytest.raises(TypeError, match="no published file holds a Linear"):
        load_renamed(nn.Linear(1, 1), state, source="x")


def test_prefixes_may_not_make_two_keys_one() -> None:
    assert strip_prefix({"module.encoder.a": torch.ones(1)}).keys() == {"a"}
    with pytest.raises(CheckpointError, match="becomes a"):
        strip_prefix({"encoder.a": torch.ones(1), "a": torch.ones(1)})

