"""What a GPU must give as well: golden numbers, the same masks, codecs, resumed runs, steps that do not wait for it.

Tests hide GPUs; ``UMT_TEST_CUDA=1 python -m pytest -n 0 tests/test_cuda.py`` shows them to these (``benchmarks/gpu_check.sh``).
"""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from tests import test_golden_stage1 as stage1
from tests import test_golden_stage2 as stage2
from tests.training.conftest import StageWorld, stage_world  # noqa: F401  # a fixture
from tests.training.test_stage1 import make_spec
from tests.training.test_stage2 import CAPTIONS, STILLS
from tests.training.test_stage2 import make_spec as stage2_spec
from umt_pipeline.features.codecs import Coder, Fp16, Int8
from umt_pipeline.losses import alignment_loss
from umt_pipeline.masking import MaskConfig, MaskKind, draw_visible
from umt_pipeline.models.student import Student
from umt_pipeline.models.teacher import Teacher
from umt_pipeline.training.launch import run
from umt_pipeline.training.loop import Trainer
from umt_pipeline.training.prefetch import DeviceBatches
from umt_pipeline.training.state import final_weights
from umt_pipeline.training.task import TrainConfig
from umt_pipeline.video.pixels import patchify

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU, or it is hidden: UMT_TEST_CUDA=1 shows it")

golden_student, golden_teacher, golden_video_text = stage1.student, stage1.teacher, stage2.golden
GPU = torch.device("cuda")
# Sums of a GPU are in another order than those that the numbers were made with.
TOLERANCE = 1e-4


def test_student_and_its_gradients(golden_student: Student) -> None:
    student = golden_student.to(GPU)
    student.zero_grad()
    patches = patchify(stage1.IO["video"].permute(0, 2, 3, 4, 1), stage1.PATCH).to(GPU)
    visible = stage1.visible().to(GPU)
    tokens = student(patches.gather(1, visible.unsqueeze(-1).expand(-1, -1, patches.shape[-1])), visible)
    stage1.close(tokens.cpu(), "student_tokens", TOLERANCE)
    loss = alignment_loss(tokens, stage1.IO["visible_targets"].to(GPU))
    loss.backward()
    stage1.close(loss.reshape(1).cpu(), "loss", TOLERANCE)
    gradients = stage1.student_from_published(stage1.golden_tensors("stage1", "grad/"))
    for name, expected in gradients.items():
        gradient = student.get_parameter(name).grad
        assert gradient is not None
        torch.testing.assert_close(gradient.cpu(), expected, rtol=0.0, atol=TOLERANCE)


@torch.no_grad()
def test_teacher(golden_teacher: Teacher) -> None:
    teacher = golden_teacher.to(GPU)
    output = teacher(stage1.frames().to(GPU))
    clips = stage1.IO["video"].shape[0]
    tokens = teacher.project(output.layers_KFNW).unflatten(1, (clips, -1)).flatten(2, 3)
    stage1.close(tokens.cpu(), "teacher_tokens", TOLERANCE)
    stage1.close(output.importance_FN.cpu(), "teacher_attention", TOLERANCE)


@torch.no_grad()
def test_video_text_model(golden_video_text: stage2.Golden) -> None:
    io, model = golden_video_text.io, golden_video_text.model.to(GPU)
    patches, visible = stage2.visible_patches(golden_video_text, io["video"], io["video_mask"])
    clips = model.encode_video(patches.to(GPU), visible.to(GPU))
    texts = model.encode_text(io["token_ids"].to(GPU), io["token_attention"].to(GPU))
    stage2.assert_close((clips[1] @ texts[1].T / model.temperature).cpu(), io["sim_v2t"], 10 * TOLERANCE)


@pytest.mark.parametrize("kind", ["attention", "random", "tube"])
def test_masks_are_those_of_the_cpu(kind: MaskKind) -> None:
    generator = torch.Generator().manual_seed(0)
    noise, attention = torch.rand((64, 8, 196), generator=generator), torch.rand((64, 8, 196), generator=generator)
    config = MaskConfig(kind=kind, ratio=0.8)
    assert torch.equal(draw_visible(config, noise.to(GPU), attention.to(GPU)).cpu(), draw_visible(config, noise, attention))


@pytest.mark.parametrize("kind", [Fp16, Int8])
def test_codecs_read_the_same_targets(kind: type[Fp16 | Int8]) -> None:
    targets = torch.nn.functional.normalize(torch.randn(4, 2, 40, 512, generator=torch.Generator().manual_seed(0)), dim=-1)
    codec = Coder(kind())
    encoded = codec.encode(targets.to(GPU))
    on_gpu, arrays = codec.decode(encoded), {key: array.cpu() for key, array in encoded.items()}
    torch.testing.assert_close(on_gpu.cpu(), codec.decode(arrays), rtol=0.0, atol=0.0)


@pytest.mark.parametrize("targets", ["cached", "online"])
def test_training_brings_the_loss_down(stage_world: StageWorld, tmp_path: Path, targets: str) -> None:  # noqa: F811
    source = stage_world.source if targets == "cached" else stage_world.online()
    spec = make_spec(stage_world, source=source, device="cuda", precision="bf16")  # type: ignore[arg-type]
    losses = [row["loss"] for row in run(spec, tmp_path).result.history]
    assert losses[-1] < 0.7 * losses[0]


def test_a_run_that_was_cut_ends_in_the_same_weights(
    stage_world: StageWorld, tmp_path: Path  # noqa: F811
) -> None:
    class CutError(Exception):
        pass

    def cut(row: dict[str, float]) -> None:
        if row["step"] == 7:
            raise CutError

    settings = {"steps": 12, "checkpoint_every": 5, "device": "cuda", "deterministic": True}
    run(make_spec(stage_world, **settings), tmp_path / "whole")  # type: ignore[arg-type]
    with pytest.raises(CutError):
        run(make_spec(stage_world, **settings), tmp_path / "cut", cut)  # type: ignore[arg-type]
    run(make_spec(stage_world, **settings), tmp_path / "cut")  # type: ignore[arg-type]
    whole, resumed = (final_weights(tmp_path / name).read_bytes() for name in ("whole", "cut"))
    assert whole == resumed


@pytest.fixture
def sync_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let CUDA raise where a step waits for the device; the first steps may, which make tables and choose kernels."""
    step = Trainer._step

    def strictly(trainer: Trainer, number: int, batches: DeviceBatches) -> None:
        torch.cuda.set_sync_debug_mode("error" if number >= trainer.start + 4 else "default")
        try:
            step(trainer, number, batches)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Trainer, "_step", strictly)


@pytest.mark.usefixtures("sync_is_an_error")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("targets", ["cached", "online"])
def test_steps_of_stage_1_have_no_synchronisation(
    stage_world: StageWorld, tmp_path: Path, targets: str, precision: str  # noqa: F811
) -> None:
    source = stage_world.source if targets == "cached" else stage_world.online()
    settings = {"steps": 10, "device": "cuda", "precision": precision, "clip_grad": 1.0, "ema": 0.9, "accumulate": 2}
    run(make_spec(stage_world, 0.5, source, **settings), tmp_path)  # type: ignore[arg-type]


@pytest.mark.usefixtures("sync_is_an_error")
def test_steps_of_stage_2_have_no_synchronisation(stage_world: StageWorld, tmp_path: Path) -> None:  # noqa: F811
    loop = TrainConfig(steps=12, batch_size=2, lr=1e-3, log_every=3, device="cuda", precision="bf16")
    run(stage2_spec(stage_world, tmp_path, CAPTIONS + STILLS, train=loop), tmp_path / "run")


def test_batches_are_copied_beside_the_step() -> None:
    host = [{"x": torch.full((1 << 20,), float(number)).pin_memory(), "clip": [str(number)]} for number in range(6)]
    moved = DeviceBatches((batch for batch in host), GPU)
    sums = []
    for batch in moved:
        torch.cuda._sleep(10_000_000)  # a step that is still running when the next batch is on its way
        moved.copy_ahead()
        sums.append(batch["x"].sum())
    assert [value.item() for value in sums] == [float(number << 20) for number in range(6)]


@pytest.mark.parametrize("targets", ["cached", "online"])
def test_deterministic_runs_end_in_the_same_bits(stage_world: StageWorld, tmp_path: Path, targets: str) -> None:  # noqa: F811
    source = stage_world.source if targets == "cached" else stage_world.online()
    settings = {"steps": 12, "device": "cuda", "precision": "bf16", "deterministic": True}
    ends = []
    for name in ("one", "other"):
        run(make_spec(stage_world, 0.5, source, **settings), tmp_path / name)  # type: ignore[arg-type]
        ends.append(final_weights(tmp_path / name).read_bytes())
    assert ends[0] == ends[1]


def test_steps_do_not_wait_for_the_gpu(stage_world: StageWorld, tmp_path: Path) -> None:  # noqa: F811
    """Host and GPU meet where rows are logged and checkpoints written, however many steps lie between."""

    def meetings(steps: int) -> int:
        settings = {"steps": steps, "log_every": 1000, "checkpoint_every": 1000, "device": "cuda"}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                run(make_spec(stage_world, **settings), tmp_path / str(steps))  # type: ignore[arg-type]
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(warning.message) for warning in caught)

    meetings(4)  # what is measured once per process, such as the peak
    assert meetings(30) == meetings(8)
