"""What stage 2 costs, as `plan_stage1` says it of stage 1: work, hours and bytes, with targets from either side.

A step trains on videos or on images, never on both. A sample is a video or an image with one caption, counted as long as
``text.max_length`` (batches of shorter captions are shorter). With ``control`` the training is done twice, the stores are
made once.

Not counted, beside what stage 1's plan leaves out: the text tower's own training, and the products with the rest of the
batch (:mod:`umt_pipeline.models.flops_stage2`).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from umt_pipeline.commands.plan_stage1 import ASSUMED_VIEWS, Hardware, Mode, Phase, StagePlan
from umt_pipeline.core.config import Config
from umt_pipeline.data.samples import Corpus
from umt_pipeline.features.extract import FeatureConfig, make_header
from umt_pipeline.features.manifest import StoreHeader
from umt_pipeline.models.flops import TowerSize, teacher_macs, training_flops
from umt_pipeline.models.flops_stage2 import video_text_macs
from umt_pipeline.models.video_text import VideoTextConfig
from umt_pipeline.training.objectives import ObjectiveWeights
from umt_pipeline.training.sampler import Sampler
from umt_pipeline.training.schedule import make_schedule
from umt_pipeline.training.stage1 import StudentSize
from umt_pipeline.training.stage2 import Stage2Config

Medium = Literal["video", "image"]


class SampleCost(Config):
    """One kind of sample.

    Attributes:
        medium: what it is.
        count: samples that an epoch draws.
        trained: of these, what fills whole batches.
        visible: tokens of one that the video encoder computes.
        flops: of a sample in training, forward and back, by part.
        unmasked_flops: the same in the epochs without a mask; empty if there are none.
        teacher_flops: per view.
        views: recorded in the cached mode.
        bytes_per_view: of the store's records.
        read_bytes_per_view: of these, what training reads.
    """

    medium: Medium
    count: int
    trained: int
    visible: int
    flops: dict[str, int]
    unmasked_flops: dict[str, int]
    teacher_flops: int
    views: int
    bytes_per_view: int
    read_bytes_per_view: int

    @property
    def total_flops(self) -> int:
        """Of a sample in training, without the teacher."""
        return sum(self.flops.values())

    @property
    def store_bytes(self) -> int:
        """Size of the cached mode's store of this kind."""
        return self.count * self.views * self.bytes_per_view


class Stage2Plan(StagePlan):
    """What ``umt plan`` says of stage 2.

    Attributes:
        samples: videos, and images if there are any.
        unmasked_epochs: the last so many epochs see every patch.
        trainings: 2 with the control.
        text_length: tokens of a caption.
    """

    computed: ClassVar[tuple[str, ...]] = ("samples_per_epoch", *StagePlan.computed)

    samples: tuple[SampleCost, ...]
    unmasked_epochs: int
    trainings: int
    text_length: int

    @property
    def samples_per_epoch(self) -> int:
        """Videos and images in whole batches."""
        return sum(sample.trained for sample in self.samples)

    @property
    def store_bytes(self) -> int:
        """Size of the cached mode's stores."""
        return sum(sample.store_bytes for sample in self.samples)


def make_stage2_plan(
    features: FeatureConfig,
    stage2: Stage2Config,
    student: StudentSize,
    tower: TowerSize,
    videos: int,
    images: int,
    hardware: Hardware,
) -> Stage2Plan:
    """Compute the cost of stage 2 with these parameters.

    Args:
        features: what is recorded, or would be.
        stage2: text encoder, objectives and loop; ``train.nproc`` devices train, one extracts.
        student: size of the video encoder.
        tower: sizes of the teacher's image tower.
        videos: number of videos with a caption that an epoch draws.
        images: the same of images.
        hardware: rates.

    Raises:
        ConfigError: the parameters do not fit, or one kind of samples fills no batch.
        TrainingError: there are no samples.
    """
    counts: dict[Medium, int] = {"video": videos, "image": images}
    corpora = [Corpus(f"{medium}s", count, group=medium) for medium, count in counts.items() if count]
    sampler = Sampler(corpora, stage2.train.batch_size, seed=0)
    steps = make_schedule(stage2.train, sampler.steps_per_epoch, sampler.batch_size).total_steps
    headers: dict[Medium, StoreHeader] = {
        "video": _header(features, tower), "image": _header(features.image_config(), tower)
    }  # fmt: skip
    header = headers["video"]
    model = stage2.model_for(student.student_config(header), header, stage2.text.vocab_size)
    samples = tuple(
        _sample_cost(medium, count, sampler, stage2, model, headers[medium], tower)
        for medium, count in counts.items()
        if count
    )
    trainings, epochs = 2 if stage2.control else 1, steps / sampler.steps_per_epoch
    online, cached = _modes(samples, stage2, epochs, trainings, hardware)
    return Stage2Plan(
        samples=samples,
        views_assumed=features.views == 0,
        epochs=epochs,
        unmasked_epochs=stage2.unmasked_epochs,
        steps=steps,
        batch_size=sampler.batch_size,
        trainings=trainings,
        text_length=stage2.text.max_length,
        teacher=features.teacher.source,
        targets=stage2.targets,
        hardware=hardware,
        online=online,
        cached=cached,
    )


def _header(config: FeatureConfig, tower: TowerSize) -> StoreHeader:
    return make_header(config.model_copy(update={"views": config.views or ASSUMED_VIEWS}), tower.output_dim, weights_sha256="")


def _sample_cost(
    medium: Medium,
    count: int,
    sampler: Sampler,
    stage2: Stage2Config,
    model: VideoTextConfig,
    header: StoreHeader,
    tower: TowerSize,
) -> SampleCost:
    visible, length = header.frames * header.visible_per_frame, stage2.text.max_length

    def flops(tokens: int, weights: ObjectiveWeights) -> dict[str, int]:
        macs = video_text_macs(model, tokens, length, weights)
        return {name: training_flops(part) for name, part in macs.parts().items()}

    unaligned = stage2.weights.model_copy(update={"alignment": 0.0})
    teacher = teacher_macs(tower, header.frames, header.grid, header.layers, header.visible_per_frame).total
    sizes = header.row_bytes()
    return SampleCost(
        medium=medium,
        count=count,
        trained=round(sampler.share(medium) * sampler.steps_per_epoch) * sampler.batch_size,
        visible=visible,
        flops=flops(visible, stage2.weights),
        unmasked_flops=flops(header.frames * header.grid**2, unaligned) if stage2.unmasked_epochs else {},
        teacher_flops=2 * teacher,
        views=header.views,
        bytes_per_view=sum(sizes.values()),
        read_bytes_per_view=sum(sizes.values()) - sizes["attention"],
    )


def _modes(
    samples: tuple[SampleCost, ...], stage2: Stage2Config, epochs: float, trainings: int, hardware: Hardware
) -> tuple[Mode, Mode]:
    """Return the cost of training online, and of extraction and training from the stores."""
    trained = teacher = decoding_s = read = 0.0
    recorded_teacher = recording_s = written = 0.0
    for sample in samples:
        decode_s = hardware.decode_s if sample.medium == "video" else hardware.decode_images_s
        once = sample.trained * trainings
        masked, unmasked = once * (epochs - stage2.unmasked_epochs), once * stage2.unmasked_epochs
        trained += masked * sample.total_flops + unmasked * sum(sample.unmasked_flops.values())
        # Without a mask the teacher does not run.
        teacher += masked * sample.teacher_flops
        decoding_s += decode_s(masked + unmasked)
        read += (masked + unmasked) * sample.read_bytes_per_view
        recorded = sample.count * sample.views
        recorded_teacher += recorded * sample.teacher_flops
        recording_s += decode_s(recorded)
        written += sample.store_bytes
    devices = stage2.train.nproc
    online = Phase.of("training", devices, hardware, flops=trained + teacher, decode_s=decoding_s, moved=0)
    extraction = Phase.of("extraction", 1, hardware, flops=recorded_teacher, decode_s=recording_s, moved=written)
    cached = Phase.of("training", devices, hardware, flops=trained, decode_s=0, moved=read)
    return Mode(phases=(online,)), Mode(phases=(extraction, cached))
