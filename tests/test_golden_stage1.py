"""Stage 1 equals the reference implementation number by number (float32)."""

from __future__ import annotations

import open_clip
import pytest
import torch
from torch import Tensor

from tests.golden_files import golden_interval, golden_meta, golden_tensors
from umt_pipeline.losses import alignment_loss
from umt_pipeline.models.checkpoints import classifier_from_published, student_from_published
from umt_pipeline.models.folders import load_weights
from umt_pipeline.models.student import Student, StudentConfig
from umt_pipeline.models.teacher import Teacher, TeacherConfig
from umt_pipeline.models.vit import ViTConfig, position_table
from umt_pipeline.tasks.classification.model import Classifier, ClassifierConfig
from umt_pipeline.video.pixels import patchify

META = golden_meta("stage1")["config"]
IO = golden_tensors("stage1", "io/")
STUDENT = golden_tensors("stage1", "student/")
CLASSIFIER = golden_tensors("stage1", "classifier/")
PATCH = STUDENT["encoder.patch_embed.proj.weight"].shape[-1]
GRID = META["img"] // PATCH


def close(found: Tensor, name: str, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, IO[name], rtol=0.0, atol=tolerance)


@pytest.fixture(scope="module")
def student() -> Student:
    vision = ViTConfig(
        image_size=META["img"],
        patch_size=PATCH,
        frames=META["frames"],
        dim=META["dim"],
        depth=META["depth"],
        heads=META["heads"],
    )
    interval = golden_interval(META, "student")
    config = StudentConfig(vision=vision, align_layers=META["K"], align_interval=interval, target_dim=META["out"])
    student = Student(config)
    load_weights(student, student_from_published(STUDENT), source="golden")
    return student


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    vision = {
        "image_size": META["img"],
        "patch_size": PATCH,
        "width": META["tw"],
        "layers": META["tl"],
        "head_width": META["tw"] // META["th"],
    }
    text = {"context_length": 4, "vocab_size": 8, "width": 16, "heads": 2, "layers": 1}
    clip = open_clip.CLIP(embed_dim=META["out"], vision_cfg=vision, text_cfg=text, quick_gelu=True)
    load_weights(clip, golden_tensors("stage1", "teacher/"), source="golden", allow_missing=("[!v]*",))
    config = TeacherConfig(source="golden", layers=META["K"], interval=golden_interval(META, "teacher"))
    return Teacher(clip, None, config, GRID, "")


def visible() -> Tensor:
    return (~IO["mask"]).nonzero()[:, 1].reshape(IO["mask"].shape[0], -1)


def frames() -> Tensor:
    return IO["video"].permute(0, 2, 1, 3, 4).flatten(0, 1)


def test_teacher_tokens_and_attention(teacher: Teacher) -> None:
    output = teacher(frames())
    clips = IO["video"].shape[0]
    tokens = teacher.project(output.layers_KFNW)
    close(tokens.unflatten(1, (clips, -1)).flatten(2, 3), "teacher_tokens")
    close(output.importance_FN, "teacher_attention")


def test_gathering_before_projecting_gives_the_visible_targets(teacher: Teacher) -> None:
    output = teacher(frames())
    clips = IO["video"].shape[0]
    visible_Fn = visible().reshape(clips * META["frames"], -1) % GRID**2
    targets = teacher.project(output.layers_KFNW, visible_Fn)
    close(targets.unflatten(1, (clips, -1)).flatten(2, 3), "visible_targets")


def test_student_tokens_loss_and_gradients(student: Student) -> None:
    patches = patchify(IO["video"].permute(0, 2, 3, 4, 1), PATCH)
    index = visible()
    tokens = student(patches.gather(1, index.unsqueeze(-1).expand(-1, -1, patches.shape[-1])), index)
    close(tokens, "student_tokens")
    loss = alignment_loss(tokens, IO["visible_targets"])
    close(loss.reshape(1), "loss")
    loss.backward()
    gradients = student_from_published(golden_tensors("stage1", "grad/"))
    assert len(gradients) == 3
    for name, expected in gradients.items():
        torch.testing.assert_close(student.get_parameter(name).grad, expected, rtol=0.0, atol=2e-5)


@pytest.mark.parametrize(("name", "clip_frames", "grid"), [("pos_embed_f16_r224", 16, 14), ("pos_embed_f8_r384", 8, 24)])
def test_interpolated_position_tables(name: str, clip_frames: int, grid: int) -> None:
    table = position_table(META["dim"], 8, 14, clip_frames, grid)
    close(table[IO[f"{name}_index"]], name)


def test_classifier_logits() -> None:
    video = IO["classifier_video"].repeat_interleave(8, dim=3).repeat_interleave(8, dim=4)
    patch_size = CLASSIFIER["patch_embed.proj.weight"].shape[-1]
    vision = ViTConfig(
        image_size=video.shape[-1],
        patch_size=patch_size,
        frames=video.shape[2],
        dim=META["dim"],
        depth=META["depth"],
        heads=META["heads"],
    )
    model = Classifier(ClassifierConfig(vision=vision, classes=META["classes"]))
    load_weights(model, classifier_from_published(CLASSIFIER), source="golden")
    model.eval()
    with torch.no_grad():
        close(model(patchify(video.permute(0, 2, 3, 4, 1), patch_size)), "classifier_logits", 2e-5)
