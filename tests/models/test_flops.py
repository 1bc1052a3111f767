"""The counts equal what torch counts in the real modules, and the published numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.features.tiny import MODEL_CONFIG, make_teacher_folder
from tests.models.tiny_towers import alone
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.features.targets import draw_targets
from umt_pipeline.masking import MaskConfig, visible_count
from umt_pipeline.models.flops import TowerSize, student_macs, teacher_macs, training_flops
from umt_pipeline.models.student import Student, StudentConfig
from umt_pipeline.models.teacher import Teacher, TeacherConfig, load_teacher
from umt_pipeline.models.vit import ViTConfig

GIGA = 1e9
STUDENT = StudentConfig(
    vision=ViTConfig(image_size=32, patch_size=8, frames=2, dim=24, depth=3, heads=2, mlp_ratio=3.0),
    align_layers=2,
    target_dim=10,
)


def counted(run: Callable[[], Any]) -> int:
    # The fused kernels for the CPU are not in torch's table; as plain products they are counted.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def student_input(clips: int, visible: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(clips, visible, STUDENT.vision.patch_values), torch.arange(visible).expand(clips, visible)


@pytest.mark.parametrize("visible", [6, 32])
@pytest.mark.parametrize("attention", ["joint", "frame"])
def test_student_forward_is_what_torch_counts(visible: int, attention: str) -> None:
    config = STUDENT.model_copy(update={"vision": STUDENT.vision.model_copy(update={"attention": attention})})
    student, inputs = Student(config), student_input(5, visible)
    with torch.no_grad():
        assert counted(lambda: student(*inputs)) == 5 * 2 * student_macs(config, visible)


def test_training_is_three_times_forward_less_the_gradient_of_the_pixels() -> None:
    student, inputs = Student(STUDENT), student_input(5, 6)
    pixels = 6 * STUDENT.vision.patch_values * STUDENT.vision.dim
    found = counted(lambda: student(*inputs).sum().backward())
    assert found == 5 * (training_flops(student_macs(STUDENT, 6)) - 2 * pixels)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    return load_teacher(make_teacher_folder(tmp_path_factory.mktemp("teacher")), TeacherConfig(layers=2), 6)


@pytest.mark.parametrize("kind", ["attention", "none"])
def test_teacher_is_what_torch_counts(teacher: Teacher, kind: str) -> None:
    mask = MaskConfig.model_validate({"kind": kind, "ratio": 0.75})
    visible = 36 if kind == "none" else visible_count(36, 0.75)
    frames, noise = torch.zeros(3, 2, 48, 48, 3, dtype=torch.uint8), torch.rand(3, 2, 36)
    size = TowerSize.of_module(teacher.tower.visual)
    expected = teacher_macs(size, frames=2, grid=6, layers=2, visible_per_frame=visible)
    assert counted(lambda: draw_targets(teacher, mask, 8, frames, noise)) == 3 * 2 * expected.total


@pytest.mark.parametrize("classes", [0, 12])
def test_a_teacher_of_timm_is_what_torch_counts(classes: int) -> None:
    tower = alone("vit_base_patch16_clip_224", num_classes=classes)
    teacher = Teacher(tower, None, TeacherConfig(source="timm:test", layers=2), grid=3, weights_sha256="")
    noise, frames = torch.rand(2, 3, 9), torch.randint(0, 256, (2, 3, 48, 48, 3), dtype=torch.uint8)
    mask = MaskConfig(ratio=0.5)
    found = counted(lambda: draw_targets(teacher, mask, 16, frames, noise))
    macs = teacher.macs(frames=3, visible_per_frame=visible_count(9, 0.5))
    assert macs is not None
    assert found == 2 * 2 * macs


@pytest.mark.parametrize("name", ["vit_base_patch16_siglip_224", "vit_base_patch14_reg4_dinov2"])
def test_the_cost_of_other_towers_of_timm_is_not_known(name: str) -> None:
    grid = 3
    assert Teacher(alone(name), None, TeacherConfig(source="timm:test", layers=2), grid, "").macs(2, 2) is None


def test_sizes_are_the_same_read_from_a_config_and_from_its_model(teacher: Teacher) -> None:
    assert TowerSize.of_config(MODEL_CONFIG) == TowerSize.of_module(teacher.tower.visual)


def test_other_towers_are_refused() -> None:
    for name, found in (("ViT-B-16-SigLIP", "vit_base_patch16_siglip_224"), ("RN50", "a convolutional network")):
        with pytest.raises(ConfigError, match=found):
            TowerSize.of_config(open_clip.get_model_config(name))


@pytest.mark.parametrize(
    ("model", "dim", "depth", "heads", "encoder_giga", "teacher_giga"),
    [("ViT-B-16", 768, 12, 12, 29, 144), ("ViT-L-14", 1024, 24, 16, 102, 500)],
)
def test_published_sizes(model: str, dim: int, depth: int, heads: int, encoder_giga: int, teacher_giga: int) -> None:
    """The authors' code projects all 196 tokens; ours the visible 40, and it computes one attention row more."""
    tower = TowerSize.of_config(open_clip.get_model_config(model))
    vision = ViTConfig(image_size=224, patch_size=16, frames=8, dim=dim, depth=depth, heads=heads)
    student = student_macs(StudentConfig(vision=vision, align_layers=6, target_dim=tower.output_dim), 320)
    heads_only = 6 * 320 * dim * tower.output_dim
    assert round((student - heads_only) / GIGA) == encoder_giga
    authors = teacher_macs(tower, frames=8, grid=14, layers=6, visible_per_frame=196)
    assert round((authors.total - authors.attention_row) / GIGA) == teacher_giga
    ours = teacher_macs(tower, frames=8, grid=14, layers=6, visible_per_frame=40).total
    assert 0.975 < ours / authors.total < 0.99
    assert 2 * ours / training_flops(student, ours) == pytest.approx(0.615, abs=0.005), "the teacher's share of a step"


@given(st.integers(1, 64), st.integers(1, 64))
def test_fewer_visible_tokens_never_cost_more(one: int, other: int) -> None:
    fewer, more = sorted((one, other))
    assert student_macs(STUDENT, fewer) <= student_macs(STUDENT, more)
