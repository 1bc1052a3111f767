"""What bf16 changes and what it saves: masks, targets and features against fp32, and the time of each kind of work.

    python benchmarks/precision.py [--teacher FOLDER] [--width N] [--layers N] [--views N] [--out FILE.md]

The views are drawn: textures that pan, with others moving over them. Without ``--teacher``, a folder of open_clip's layout, the
teacher is a ViT with random weights whose queries and keys are scaled up, so that its attention is as uneven as a trained
one's. Times are CPU time of one thread on a CPU, of the clock on a GPU: the best of rounds in which both precisions take turns.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from drawn_files import moving_textures
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from umt_pipeline.compute.gain import measured_speeds
from umt_pipeline.compute.names import Precision
from umt_pipeline.compute.precision import autocast
from umt_pipeline.features.targets import TargetBatch, draw_targets, mask_noise, run_teacher
from umt_pipeline.losses import alignment_loss
from umt_pipeline.masking import MaskConfig
from umt_pipeline.models.student import Student, StudentConfig
from umt_pipeline.models.teacher import Teacher, TeacherConfig, load_teacher
from umt_pipeline.models.vit import ViTConfig, every_patch
from umt_pipeline.video.pixels import normalise_patches, patchify

PATCH, HEAD_WIDTH, LAYERS_ALIGNED = 16, 64, 3
# With it the attention of the random teacher has about 0.7 of the entropy of an even one.
SHARPER = 2.5
ROUNDS = 3
PRECISIONS: tuple[Precision, Precision] = ("fp32", "bf16")


@dataclass(frozen=True)
class Work:
    """What is compared, on which device.

    Attributes:
        teacher: the frozen tower.
        student: of the same size.
        frames_BTSS3: uint8 views.
        noise_BTN: of their masks.
    """

    teacher: Teacher
    student: Student
    frames_BTSS3: Tensor
    noise_BTN: Tensor

    @property
    def device(self) -> torch.device:
        return self.frames_BTSS3.device

    def extract(self, precision: Precision) -> TargetBatch:
        """Run the teacher as extraction does."""
        with autocast(precision, self.device):
            return draw_targets(self.teacher, MaskConfig(), PATCH, self.frames_BTSS3, self.noise_BTN)

    def encode(self, precision: Precision) -> Tensor:
        """Return the student's features [B, D], all patches visible, as evaluation has them."""
        with torch.inference_mode(), autocast(precision, self.device):
            patches_BVP = normalise_patches(patchify(self.frames_BTSS3, PATCH))
            return self.student.encoder(patches_BVP, every_patch(patches_BVP)).mean(dim=1)

    def step(self, batch: TargetBatch, precision: Precision) -> Tensor:
        """Take the student forward and back on targets, and return the loss."""
        self.student.zero_grad(set_to_none=True)
        with autocast(precision, self.device):
            found_KBVC = self.student(normalise_patches(batch.patches_BVP), batch.visible_BV)
            loss = alignment_loss(found_KBVC, batch.targets_KBVC)
        loss.backward()
        return loss.detach()


class RandomImageModel(nn.Module):
    """What a tower is taken out of, with random weights."""

    def __init__(self, width: int, layers: int, side: int) -> None:
        super().__init__()
        self.visual = VisionTransformer(side, PATCH, width, layers, width // HEAD_WIDTH, mlp_ratio=4.0, output_dim=width)
        for block in self.visual.transformer.resblocks:
            block.attn.in_proj_weight.data[: 2 * width] *= SHARPER


def make_work(arguments: argparse.Namespace) -> Work:
    """Make models and views."""
    torch.manual_seed(0)
    device, grid = torch.device(arguments.device), arguments.side // PATCH
    config = TeacherConfig(layers=LAYERS_ALIGNED)
    if arguments.teacher is None:
        model = RandomImageModel(arguments.width, arguments.layers, arguments.side)
        teacher = Teacher(model, None, config, grid, "random")
    else:
        teacher = load_teacher(arguments.teacher, config, grid)
    sizes = {"dim": arguments.width, "depth": arguments.layers, "heads": arguments.width // HEAD_WIDTH}
    vision = ViTConfig(image_size=arguments.side, patch_size=PATCH, frames=arguments.frames, **sizes)
    student = Student(StudentConfig(vision=vision, align_layers=LAYERS_ALIGNED, target_dim=teacher.target_dim))
    views = [
        np.stack(
            [
                picture[: arguments.side, : arguments.side]
                for picture in itertools.islice(moving_textures(number), arguments.frames)
            ]
        )
        for number in range(arguments.views)
    ]
    noise = [mask_noise("drawn", str(number), 0, arguments.frames, grid**2) for number in range(arguments.views)]
    return Work(
        teacher.to(device),
        student.to(device),
        torch.from_numpy(np.stack(views)).to(device),
        torch.from_numpy(np.stack(noise)).to(device),
    )


def differences(work: Work) -> list[tuple[str, str]]:
    """Return what is measured of masks, targets, features and loss, in words."""
    exact, rounded = (work.extract(precision) for precision in PRECISIONS)
    B, T = work.frames_BTSS3.shape[:2]
    other_BTn = (exact.visible_BV != rounded.visible_BV).reshape(B, T, -1)
    again = exact_mask_targets(work, exact.visible_BV)
    cosines_KBV = (exact.targets_KBVC * again).sum(-1)
    features = [work.encode(precision) for precision in PRECISIONS]
    losses = [float(work.step(exact, precision)) for precision in PRECISIONS]
    assert exact.attention_BTN is not None
    attention_BTN = exact.attention_BTN.float()
    even = float(torch.tensor(float(attention_BTN.shape[-1])).log())
    entropy = float(torch.special.entr(attention_BTN / attention_BTN.sum(-1, keepdim=True)).sum(-1).mean()) / even
    shared = torch.tensor(
        [
            len(set(one.tolist()) & set(other.tolist())) / len(one)
            for one, other in zip(exact.visible_BV, rounded.visible_BV, strict=True)
        ]
    )
    return [
        ("entropy of the teacher's attention, as a share of an even one's", f"{entropy:.2f}"),
        ("views with another mask", f"{100 * float(other_BTn.flatten(1).any(1).float().mean()):.0f} % of {B}"),
        ("frames with another mask", f"{100 * float(other_BTn.any(2).float().mean()):.1f} % of {B * T}"),
        ("visible patches that both masks show", f"{100 * float(shared.mean()):.2f} %"),
        (
            "targets at the same patches, 1 - cosine",
            f"{float((1 - cosines_KBV).mean()):.1e}, at most {float((1 - cosines_KBV).max()):.1e}",
        ),
        ("features of a clip, 1 - cosine", f"{float((1 - torch.cosine_similarity(*features)).mean()):.1e}"),
        ("loss of a step, relative", f"{abs(losses[1] / losses[0] - 1):.1e}"),
    ]


def exact_mask_targets(work: Work, visible_BV: Tensor) -> Tensor:
    """Return the targets [K, B, V, C] of bf16 at the patches of the mask of fp32."""
    with autocast("bf16", work.device):
        return run_teacher(work.teacher, work.frames_BTSS3).targets(visible_BV)


def times(work: Work) -> list[tuple[str, float, float]]:
    """Return each kind of work with its views per second in both precisions."""
    batch = work.extract("fp32")
    views = len(work.frames_BTSS3)
    kinds: dict[str, Callable[[Precision], object]] = {
        "extraction (the teacher)": work.extract,
        "a step of stage 1 on stored targets": partial(work.step, batch),
        "encoding": work.encode,
    }
    return [(name, *(views / seconds for seconds in best_seconds(function, work.device))) for name, function in kinds.items()]  # type: ignore[misc]


def best_seconds(function: Callable[[Precision], object], device: torch.device) -> list[float]:
    """Return the best time in each precision, by turns."""
    clock = time.perf_counter if device.type == "cuda" else time.thread_time
    best = [float("inf"), float("inf")]
    for number in range(ROUNDS + 1):
        for index, precision in enumerate(PRECISIONS):
            began = clock()
            function(precision)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number:  # the first round starts libraries
                best[index] = min(best[index], clock() - began)
    return best


def page(arguments: argparse.Namespace, work: Work) -> str:
    """Measure, and return the page."""
    given = "".join(f" --{name} {getattr(arguments, name)}" for name in ("width", "layers", "views", "frames", "side"))
    given += f" --teacher {arguments.teacher}" if arguments.teacher is not None else ""
    command = f"python benchmarks/precision.py{given}"
    speeds = measured_speeds(work.device)
    name = torch.cuda.get_device_name(work.device) if work.device.type == "cuda" else _cpu()
    teacher = "random weights" if arguments.teacher is None else arguments.teacher.name
    rows = [
        ("product of the size of a ViT-B's MLP, GFLOP/s", speeds.fp32 / 1e9, speeds.bf16 / 1e9),
        *((f"{kind}, views/s", fp32, bf16) for kind, fp32, bf16 in times(work)),
    ]
    return "\n".join(
        [
            "# fp32 and bf16\n",
            f"Teacher ({teacher}) and student: {arguments.layers} blocks of width {arguments.width},",
            f"{arguments.frames} frames of {arguments.side} x {arguments.side} pixels, 80 % masked by attention;",
            f"{name}, torch {torch.__version__}, one thread.",
            f"Written by `{command}`.\n",
            "| bf16 against fp32 | |\n| --- | --- |",
            *(f"| {what} | {value} |" for what, value in differences(work)),
            "\n| | fp32 | bf16 | bf16 / fp32 |\n| --- | --- | --- | --- |",
            *(f"| {what} | {fp32:.3g} | {bf16:.3g} | {bf16 / fp32:.2f} |" for what, fp32, bf16 in rows),
            "",
        ]
    )


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").is_file() else []
    facts = dict(reversed([[part.strip() for part in line.split(":", 1)] for line in lines if ":" in line]))
    known = [name for name in ("avx512f", "avx512_bf16", "amx_bf16") if name in facts.get("flags", "").split()]
    return f"{facts.get('model name', platform.machine())} ({', '.join(known) or 'no AVX-512'})"


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--views", type=int, default=48)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--side", type=int, default=112)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks_precision.md"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.write_text(page(arguments, make_work(arguments)), encoding="utf-8")


if __name__ == "__main__":
    main()
