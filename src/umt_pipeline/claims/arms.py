"""What is compared: the arms, each one way to pre-train and fine-tune, and the comparisons they are put into.

Source of the published numbers (top-1 on Something-Something V2 and Kinetics-400, ViT-B/16): arXiv 2303.16058, tables 1 to 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from pydantic import Field, model_validator

from umt_pipeline.claims.encoders import AttentionKind
from umt_pipeline.claims.inputs import InputConfig
from umt_pipeline.claims.pretraining import PretrainingConfig
from umt_pipeline.config import Config
from umt_pipeline.masking import MaskConfig


class Arm(Config):
    """One way to get a classifier.

    Attributes:
        title: for tables.
        pretraining: None: none.
        attention: in fine-tuning.
        teacher: fine-tune the teacher's own tower.
        longer: fine-tune for as long as pre-training and fine-tuning take together.
        labels: share of the training clips that fine-tuning may use.
    """

    title: str
    pretraining: PretrainingConfig | None = PretrainingConfig()
    attention: AttentionKind = "joint"
    teacher: bool = False
    longer: bool = False
    labels: float = Field(1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.pretraining is not None and (self.teacher or self.longer):
            raise ValueError("an arm of the teacher, or one that fine-tunes for longer, is not pre-trained")
        return self

    @property
    def clip(self) -> InputConfig:
        """Frames that fine-tuning reads: those of pre-training."""
        return InputConfig() if self.pretraining is None else self.pretraining.clip


def _mask(kind: str, ratio: float) -> PretrainingConfig:
    return PretrainingConfig(mask=MaskConfig.model_validate({"kind": kind, "ratio": ratio}))


def _clip(**clip: object) -> PretrainingConfig:
    return PretrainingConfig(clip=InputConfig.model_validate(clip))


ARMS: dict[str, Arm] = {
    "aligned": Arm(title="unmasked tokens aligned (UMT)"),
    "pixels": Arm(title="hidden pixels reconstructed", pretraining=PretrainingConfig(objective="pixels")),
    "scratch": Arm(title="from scratch", pretraining=None),
    "scratch_longer": Arm(title="from scratch, for as long as both stages of UMT", pretraining=None, longer=True),
    "aligned_few": Arm(title="unmasked tokens aligned (UMT)", labels=0.25),
    "pixels_few": Arm(
        title="hidden pixels reconstructed", pretraining=PretrainingConfig(objective="pixels"), labels=0.25
    ),
    "scratch_few": Arm(title="from scratch", pretraining=None, labels=0.25),
    "frame_frame": Arm(
        title="pre-trained and fine-tuned within frames", pretraining=PretrainingConfig(attention="frame"), attention="frame"
    ),
    "frame_joint": Arm(
        title="pre-trained within frames, fine-tuned jointly", pretraining=PretrainingConfig(attention="frame")
    ),
    "random": Arm(title="random", pretraining=_mask("random", 0.8)),
    "tube": Arm(title="tube", pretraining=_mask("tube", 0.8)),
    "ratio_0": Arm(title="0 % hidden", pretraining=_mask("none", 0.0)),
    "ratio_50": Arm(title="50 % hidden", pretraining=_mask("attention", 0.5)),
    "ratio_90": Arm(title="90 % hidden", pretraining=_mask("attention", 0.9)),
    "dense": Arm(title="dense frames", pretraining=_clip(sampling="dense")),
    "tubelet_2_frames_8": Arm(title="tubelet 2, 8 frames (as many tokens)", pretraining=_clip(frames=8, tubelet=2)),
    "tubelet_2_frames_4": Arm(title="tubelet 2, 4 frames (half the tokens)", pretraining=_clip(frames=4, tubelet=2)),
    "layers_1": Arm(title="last layer", pretraining=PretrainingConfig(layers=1)),
    "layers_3": Arm(title="last 3 layers", pretraining=PretrainingConfig(layers=3)),
    "layers_4": Arm(title="all 4 layers", pretraining=PretrainingConfig(layers=4)),
    "teacher_frame": Arm(title="teacher fine-tuned, within frames", pretraining=None, attention="frame", teacher=True),
    "teacher_joint": Arm(title="teacher fine-tuned, jointly", pretraining=None, teacher=True),
}
BASELINE = "aligned"


@dataclass(frozen=True)
class Published:
    """Top-1 in percent."""

    motion: float
    appearance: float


@dataclass(frozen=True)
class Expectation:
    """What the paper found: ``better`` ahead of ``worse``."""

    better: str
    worse: str
    motion: bool = True
    appearance: bool = True


@dataclass(frozen=True)
class Comparison:
    """Some arms side by side.

    Attributes:
        key: name.
        title: of its section.
        arms: from :data:`ARMS`.
        titles: of arms that are called differently here.
        published: what the paper has for them.
        expected: the paper's directions.
        why: said where what is found differs from that.
    """

    key: str
    title: str
    arms: tuple[str, ...]
    titles: dict[str, str]
    published: dict[str, Published]
    expected: tuple[Expectation, ...]
    why: str


COMPARISONS: tuple[Comparison, ...] = (
    Comparison(
        key="target",
        title="What is learnt before: the teacher's tokens, pixels, or nothing",
        arms=("aligned", "pixels", "scratch", "scratch_longer"),
        titles={},
        published={"aligned": Published(70.2, 84.9), "pixels": Published(67.1, 78.8)},
        expected=(
            Expectation("aligned", "pixels"),
            Expectation("aligned", "scratch"),
            Expectation("aligned", "scratch_longer"),
        ),
        why=(
            "Motion differs: the teacher says the same of a thing wherever and whenever it is seen, so aligned tokens "
            "hold less of place and time than pixels do, and fine-tuning has to learn these anew; the fine-tuning is "
            "short, and the more of it there is the smaller the difference."
        ),
    ),
    Comparison(
        key="labels",
        title="The same with a quarter of the labels",
        arms=("aligned_few", "pixels_few", "scratch_few"),
        titles={},
        published={},
        expected=(Expectation("aligned_few", "pixels_few"), Expectation("aligned_few", "scratch_few")),
        why=(
            "As with all labels: what the teacher knows is appearance. Labels that are scarce make that worth more "
            "against training from scratch, and leave too few steps' worth of motion to make up for what aligned tokens "
            "lack."
        ),
    ),
    Comparison(
        key="attention",
        title="Attention over the clip or within frames",
        arms=("aligned", "frame_joint", "frame_frame"),
        titles={"aligned": "pre-trained and fine-tuned jointly (UMT)"},
        published={
            "aligned": Published(70.3, 85.2),
            "frame_joint": Published(67.2, 83.4),
            "frame_frame": Published(54.0, 82.2),
        },
        expected=(Expectation("aligned", "frame_joint"), Expectation("aligned", "frame_frame")),
        why=(
            "The attention pool reads tokens of all frames with their positions, so that motion can be told even where "
            "the encoder never looks across frames; with the plain mean of the tokens, the paper's pooling, it could not."
        ),
    ),
    Comparison(
        key="mask",
        title="Which patches are seen",
        arms=("aligned", "random", "tube"),
        titles={"aligned": "semantic (UMT)"},
        published={"aligned": Published(70.2, 84.9), "random": Published(70.2, 84.6), "tube": Published(70.2, 84.3)},
        expected=(Expectation("aligned", "random", motion=False), Expectation("aligned", "tube", motion=False)),
        why=(
            "With four of sixteen patches seen, what the teacher attends to is the object, and what is drawn at random is "
            "mostly background."
        ),
    ),
    Comparison(
        key="ratio",
        title="How many patches are hidden",
        arms=("ratio_0", "ratio_50", "aligned", "ratio_90"),
        titles={"aligned": "80 % hidden (UMT)"},
        published={"aligned": Published(70.3, 85.2), "ratio_0": Published(69.1, 84.6)},
        expected=(Expectation("aligned", "ratio_0"),),
        why=(
            "An object is seen in a few of sixteen patches and does not change its motion within a frame, so hiding "
            "patches costs and buys little but time here."
        ),
    ),
    Comparison(
        key="sampling",
        title="Frames from the whole clip or from a short stretch",
        arms=("aligned", "dense"),
        titles={"aligned": "sparse frames (UMT)"},
        published={"aligned": Published(70.2, 84.9), "dense": Published(69.8, 84.0)},
        expected=(Expectation("aligned", "dense"),),
        why=(
            "A short stretch of a clip holds most of what can be seen in a frame, so that appearance need not suffer."
        ),
    ),
    Comparison(
        key="tubelet",
        title="A token per frame or per two frames",
        arms=("aligned", "tubelet_2_frames_8", "tubelet_2_frames_4"),
        titles={"aligned": "tubelet 1, 4 frames (UMT)"},
        published={"aligned": Published(70.2, 84.9), "tubelet_2_frames_8": Published(69.5, 84.6)},
        expected=(Expectation("aligned", "tubelet_2_frames_8"),),
        why=(
            "Four tubelets of eight frames give as many tokens as four frames and see more of the motion, which is slow "
            "here: what a tubelet blurs is little."
        ),
    ),
    Comparison(
        key="layers",
        title="How many layers are aligned",
        arms=("layers_1", "aligned", "layers_3", "layers_4"),
        titles={"aligned": "last 2 layers"},
        published={},
        expected=(Expectation("aligned", "layers_1"),),
        why=(
            "Aligning more layers ties more of the student to what a frame model says, and leaves less of it free to keep "
            "place and time, which the motion labels ask for; in the paper's twelve blocks six stay free."
        ),
    ),
    Comparison(
        key="teacher",
        title="The teacher fine-tuned itself, or distilled first",
        arms=("aligned", "teacher_frame", "teacher_joint"),
        titles={"aligned": "distilled into the student (UMT)"},
        published={
            "aligned": Published(70.3, 85.2),
            "teacher_frame": Published(57.4, 82.0),
            "teacher_joint": Published(68.0, 82.5),
        },
        expected=(Expectation("aligned", "teacher_frame"), Expectation("aligned", "teacher_joint")),
        why=(
            "The teacher was trained on the same clips and is as small as the student, so that it has little that a "
            "student could gather from it."
        ),
    ),
)
