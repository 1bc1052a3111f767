"""What is compared: the arms, each one way to pre-train and fine-tune, and the comparisons they are put into.

Source of the published numbers (top-1 on Something-Something V2 and Kinetics-400, ViT-B/16): arXiv 2303.16058, tables 1 to 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator

from studies.claims.encoders import AttentionKind
from studies.claims.inputs import InputConfig
from studies.claims.pretraining import PretrainingConfig
from umt_pipeline.core.config import Config
from umt_pipeline.masking import MaskConfig


class Arm(Config):
    """One way to get a classifier.

    Attributes:
        title: for tables.
        pretraining: None: none.
        attention: in fine-tuning.
        teacher: fine-tune the teacher's own tower.
        longer: fine-tune for as long as pre-training and fine-tuning take together.
        sparse: fine-tune on sparse frames, however pre-training chose its own.
        labelled: see :class:`studies.claims.fine_tuning.FineTuningConfig`. All clips are pre-trained on, and few have labels:
            there pre-training has something to give.
    """

    title: str
    pretraining: PretrainingConfig | None = PretrainingConfig()
    attention: AttentionKind = "joint"
    teacher: bool = False
    longer: bool = False
    sparse: bool = False
    labelled: int | None = Field(10, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.pretraining is not None and (self.teacher or self.longer):
            raise ValueError("an arm of the teacher, or one that fine-tunes for longer, is not pre-trained")
        return self

    @property
    def clip(self) -> InputConfig:
        """Frames that fine-tuning and test read: those of pre-training, unless they are ``sparse``."""
        clip = InputConfig() if self.pretraining is None else self.pretraining.clip
        return clip.model_copy(update={"sampling": "sparse"}) if self.sparse else clip


def _mask(kind: str, ratio: float) -> PretrainingConfig:
    return PretrainingConfig(mask=MaskConfig.model_validate({"kind": kind, "ratio": ratio}))


def _clip(**clip: object) -> PretrainingConfig:
    return PretrainingConfig(clip=InputConfig.model_validate(clip))


ARMS: dict[str, Arm] = {
    "aligned": Arm(title="unmasked tokens aligned (UMT)"),
    # Its own masks: the teacher's would leave it background to reconstruct.
    "pixels": Arm(
        title="hidden pixels reconstructed (VideoMAE)",
        pretraining=PretrainingConfig(objective="pixels", mask=MaskConfig(kind="tube", ratio=0.8)),
    ),
    "scratch": Arm(title="from scratch", pretraining=None),
    "scratch_longer": Arm(title="from scratch, for as long as both stages of UMT", pretraining=None, longer=True),
    "aligned_3": Arm(title="aligned, 3 labels a kind", labelled=3),
    "scratch_3": Arm(title="from scratch, 3 labels a kind", pretraining=None, labelled=3),
    "scratch_longer_3": Arm(title="from scratch for longer, 3 labels a kind", pretraining=None, longer=True, labelled=3),
    "aligned_1": Arm(title="aligned, 1 label a kind", labelled=1),
    "scratch_1": Arm(title="from scratch, 1 label a kind", pretraining=None, labelled=1),
    "scratch_longer_1": Arm(title="from scratch for longer, 1 label a kind", pretraining=None, longer=True, labelled=1),
    "frame_frame": Arm(
        title="pre-trained and fine-tuned within frames", pretraining=PretrainingConfig(attention="frame"), attention="frame"
    ),
    "frame_joint": Arm(
        title="pre-trained within frames, fine-tuned jointly", pretraining=PretrainingConfig(attention="frame")
    ),
    "random": Arm(title="random", pretraining=_mask("random", 0.8)),
    "tube": Arm(title="tube", pretraining=_mask("tube", 0.8)),
    "ratio_0": Arm(title="no mask", pretraining=_mask("none", 0.0)),
    "ratio_50": Arm(title="ratio 0.5", pretraining=_mask("attention", 0.5)),
    "dense": Arm(title="pre-trained on dense frames", pretraining=_clip(sampling="dense"), sparse=True),
    "tubelet_2_frames_8": Arm(title="tubelet 2, 8 frames", pretraining=_clip(frames=8, tubelet=2)),
    "layers_1": Arm(title="last layer", pretraining=PretrainingConfig(layers=1)),
    "layers_3": Arm(title="last 3 layers", pretraining=PretrainingConfig(layers=3)),
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
    """A direction: ``better`` ahead of ``worse``, in motion, appearance or both; the paper's own, or ours."""

    better: str
    worse: str
    motion: bool = True
    appearance: bool = True
    source: Literal["paper", "ours"] = "paper"


@dataclass(frozen=True)
class Comparison:
    """Some arms side by side.

    Attributes:
        key: name.
        title: of its section.
        arms: from :data:`ARMS`.
        titles: of arms that are called differently here.
        published: what the paper has for them.
        expected: directions to look for.
        note: said below the table.
    """

    key: str
    title: str
    arms: tuple[str, ...]
    titles: dict[str, str]
    published: dict[str, Published]
    expected: tuple[Expectation, ...]
    note: str


COMPARISONS: tuple[Comparison, ...] = (
    Comparison(
        key="labels",
        title="What stage 1 is worth with 1, 3 and 10 labels",
        arms=(
            *("aligned_1", "scratch_1", "scratch_longer_1"),
            *("aligned_3", "scratch_3", "scratch_longer_3"),
            *("aligned", "scratch", "scratch_longer"),
        ),
        titles={
            "aligned": "aligned, 10 labels a kind (UMT)",
            "scratch": "from scratch, 10 labels a kind",
            "scratch_longer": "from scratch for longer, 10 labels a kind",
        },
        published={},
        expected=(
            Expectation("aligned_1", "scratch_1", source="ours"),
            Expectation("aligned_1", "scratch_longer_1", source="ours"),
            Expectation("aligned_3", "scratch_3", source="ours"),
            Expectation("aligned_3", "scratch_longer_3", source="ours"),
            Expectation("aligned", "scratch", source="ours"),
            Expectation("aligned", "scratch_longer", source="ours"),
        ),
        note=(
            "At most so many clips of a kind of thing have labels. Stage 1 sees all clips and no label; but its teacher was "
            "trained on sentences that name these kinds, as CLIP knows the names of things. Which clips are labelled is drawn "
            "by the seed, the same ones for all that have as many; motion is learnt from the same clips, whose number for each "
            "motion is not set. *For longer*: for as long as both stages of UMT."
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
        note=(
            "Supposed: the attention pool reads tokens of all frames with their positions, so that motion can be told "
            "even where the encoder never looks across frames; the paper's mean over tokens leaves that to the encoder."
        ),
    ),
    Comparison(
        key="mask",
        title="Which patches are seen",
        arms=("aligned", "random", "tube"),
        titles={"aligned": "semantic (UMT)"},
        published={"aligned": Published(70.2, 84.9), "random": Published(70.2, 84.6), "tube": Published(70.2, 84.3)},
        expected=(Expectation("aligned", "random", motion=False), Expectation("aligned", "tube", motion=False)),
        note=(
            "The paper's own differences are a few tenths of a point. Here most patches of a frame are empty background, and "
            "four of sixteen are seen."
        ),
    ),
    Comparison(
        key="ratio",
        title="How many patches are hidden",
        arms=("ratio_0", "ratio_50", "aligned"),
        titles={"aligned": "ratio 0.8 (UMT)"},
        published={"aligned": Published(70.3, 85.2), "ratio_0": Published(69.1, 84.6)},
        expected=(Expectation("aligned", "ratio_0"),),
        note=(
            "The paper's own differences are about a point. What a mask saves can be seen in the time."
        ),
    ),
    Comparison(
        key="target",
        title="What is learnt before: the teacher's tokens, pixels, or nothing",
        arms=("aligned", "pixels", "scratch"),
        titles={},
        published={"aligned": Published(70.2, 84.9), "pixels": Published(67.1, 78.8)},
        expected=(Expectation("aligned", "pixels"),),
        note=(
            "Supposed, not shown: the teacher says the same of a thing wherever and whenever it is seen, so aligned "
            "tokens hold what a thing is and little of where and when, and motion has to be learnt in fine-tuning, as "
            "from scratch. In the paper motion gains less than appearance too."
        ),
    ),
    Comparison(
        key="sampling",
        title="Frames from the whole clip or from a short stretch",
        arms=("aligned", "dense"),
        titles={"aligned": "pre-trained on sparse frames (UMT)"},
        published={"aligned": Published(70.2, 84.9), "dense": Published(69.8, 84.0)},
        expected=(Expectation("aligned", "dense"),),
        note=(
            "Both are fine-tuned and tested on sparse frames. The paper's own differences are below a point."
        ),
    ),
    Comparison(
        key="tubelet",
        title="A token per frame or per two frames",
        arms=("aligned", "tubelet_2_frames_8"),
        titles={"aligned": "tubelet 1, 4 frames (UMT)"},
        published={"aligned": Published(70.2, 84.9), "tubelet_2_frames_8": Published(69.5, 84.6)},
        expected=(Expectation("aligned", "tubelet_2_frames_8"),),
        note=(
            "The paper's own differences are below a point; and eight frames in tubelets see more of the motion than four "
            "frames at the same cost."
        ),
    ),
    Comparison(
        key="layers",
        title="How many layers are aligned",
        arms=("layers_1", "aligned", "layers_3"),
        titles={"aligned": "last 2 layers"},
        published={},
        expected=(Expectation("aligned", "layers_1", source="ours"),),
        note=(
            "Student and teacher have four blocks each, so that one, two and three stand for the paper's question at a "
            "third of its depth; the paper has no number."
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
        note=(
            "The teacher is as small as the student, and was trained on single frames of the same kinds of things in far more "
            "variety than these clips show."
        ),
    ),
)
