"""What stage 2 costs, as `plan_stage1` says it of stage 1: work, hours and bytes, with targets from either side.

A step trains on videos or on images, never on both. A sample is a video or an image with one caption, counted as long as
``text.max_length`` (batches of shorter captions are shorter). With ``control`` the training is done twice, the stores are
made once.

Not counted, beside what stage 1's plan leaves out: the text tower's own training, and the products with the rest of the
batch (:mod:`umt_pipeline.models.flops_stage2`).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import add
from typing import ClassVar, Literal

from umt_pipeline.commands.plan_hardware import Hardware
from umt_pipeline.commands.plan_numbers import NOTHING, Explained, Number, amount, count
from umt_pipeline.commands.plan_phases import Mode, Work
from umt_pipeline.commands.plan_stage1 import (
    StagePlan,
    both_modes,
    codec_headers,
    frame_bytes,
    micro_batch,
    planned_header,
    teacher_cost,
)
from umt_pipeline.data.samples import Corpus
from umt_pipeline.features.extract import FeatureConfig
from umt_pipeline.features.manifest import StoreHeader
from umt_pipeline.models.flops import TowerSize, training_flops
from umt_pipeline.models.flops_stage2 import video_text_macs
from umt_pipeline.models.video_text import VideoTextConfig
from umt_pipeline.training.objectives import ObjectiveWeights
from umt_pipeline.training.sampler import Sampler
from umt_pipeline.training.schedule import make_schedule
from umt_pipeline.training.stage1 import StudentSize
from umt_pipeline.training.stage2 import Stage2Config

Medium = Literal["video", "image"]


class SampleCost(Explained):
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
        frame_bytes: of a decoded view.
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
    frame_bytes: int
    bytes_per_view: int
    read_bytes_per_view: int

    @property
    def total_flops(self) -> int:
        """Of a sample in training, without the teacher."""
        return sum(self.flops.values())


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
    corpora = [Corpus(f"{medium}s", size, group=medium) for medium, size in counts.items() if size]
    sampler = Sampler(corpora, stage2.train.batch_size, seed=0)
    steps = make_schedule(stage2.train, sampler.steps_per_epoch, sampler.batch_size).total_steps
    headers: dict[Medium, StoreHeader] = {
        "video": planned_header(features, tower), "image": planned_header(features.image_config(), tower)
    }  # fmt: skip
    header = headers["video"]
    model = stage2.model_for(student.student_config(header), header, stage2.text.vocab_size)
    samples = tuple(
        _sample_cost(medium, size, sampler, stage2, model, headers[medium], tower) for medium, size in counts.items() if size
    )
    trainings, epochs = 2 if stage2.control else 1, count(steps, "steps") / count(sampler.steps_per_epoch, "steps per epoch")
    online, cached = _modes(samples, features, stage2, (epochs.value, trainings, sampler.batch_size), hardware)
    kinds = [(sample, codec_headers(headers[sample.medium])) for sample in samples]
    by_codec = {
        codec: _sum(_recorded(sample) * count(sum(known[codec].row_bytes().values()), "B") for sample, known in kinds)
        for codec in kinds[0][1]
    }
    stored = _sum(_recorded(sample) * count(sample.bytes_per_view, "B") for sample in samples)
    return Stage2Plan(
        samples=samples,
        views_assumed=features.views == 0,
        epochs=epochs.value,
        unmasked_epochs=stage2.unmasked_epochs,
        steps=steps,
        batch_size=sampler.batch_size,
        trainings=trainings,
        text_length=stage2.text.max_length,
        teacher=features.teacher.source,
        targets=stage2.targets,
        store_bytes=round(stored.value),
        store_bytes_by_codec={codec: round(size.value) for codec, size in by_codec.items()},
        hardware=hardware,
        online=online,
        cached=cached,
        how={
            "epochs": epochs.how,
            "unmasked_epochs": "stage2.unmasked_epochs",
            "steps": "stage2.train, on whole batches of one medium",
            "batch_size": "stage2.train.batch_size",
            "trainings": "two with stage2.control, else one",
            "text_length": "stage2.text.max_length",
            "samples_per_epoch": "what fills whole batches, of all samples",
            "store_bytes": stored.how,
            **{f"store_bytes_by_codec.{codec}": size.how for codec, size in by_codec.items()},
        },
    )


def _sum(numbers: Iterable[Number]) -> Number:
    return reduce(add, numbers)


def _recorded(sample: SampleCost) -> Number:
    return count(sample.count, f"{sample.medium}s") * count(sample.views, "views")


def _sample_cost(
    medium: Medium,
    drawn: int,
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
    teacher, frames, sizes = teacher_cost(tower, header), frame_bytes(header), header.row_bytes()
    masked = flops(visible, stage2.weights)
    unmasked = flops(header.frames * header.grid**2, unaligned) if stage2.unmasked_epochs else {}
    counted = f"2 FLOP x 3 (back counted as twice forward) x MACs of {length} tokens of text with"
    return SampleCost(
        medium=medium,
        count=drawn,
        trained=round(sampler.share(medium) * sampler.steps_per_epoch) * sampler.batch_size,
        visible=visible,
        flops=masked,
        unmasked_flops=unmasked,
        teacher_flops=round(teacher.value),
        views=header.views,
        frame_bytes=round(frames.value),
        bytes_per_view=sum(sizes.values()),
        read_bytes_per_view=sum(sizes.values()) - sizes["attention"],
        how={
            "count": f"captioned {medium}s of the clean table by the weights of stage2.corpora, or of the command line",
            "trained": f"whole batches of {sampler.batch_size:,}",
            "visible": f"{header.frames} frames x {header.visible_per_frame} patches that the mask leaves",
            **{f"flops.{name}": f"{counted} {visible} patches" for name in masked},
            **{f"unmasked_flops.{name}": f"{counted} {header.frames * header.grid**2} patches" for name in unmasked},
            "teacher_flops": teacher.how,
            "views": "of teacher_features, or 10 where they are 0",
            "frame_bytes": frames.how,
            "bytes_per_view": " + ".join(f"{name} {size:,}" for name, size in sizes.items()),
            "read_bytes_per_view": f"without attention, {sizes['attention']:,} B",
        },
    )


def _modes(
    samples: tuple[SampleCost, ...],
    features: FeatureConfig,
    stage2: Stage2Config,
    schedule: tuple[float, int, int],
    hardware: Hardware,
) -> tuple[Mode, Mode]:
    """Return the cost of training online, and of extraction and training from the stores.

    ``schedule`` is epochs, trainings and samples of a batch.
    """
    epochs, trainings, batch_size = schedule
    nothing = NOTHING
    trained = teacher = read = recorded_teacher = written = nothing
    seen, recorded = {"video": nothing, "image": nothing}, {"video": nothing, "image": nothing}
    for sample in samples:
        once = count(sample.trained * trainings, f"{sample.medium}s an epoch")
        masked = once * count(epochs - stage2.unmasked_epochs, "epochs")
        # Without a mask the teacher does not run.
        trained += masked * amount(sample.total_flops, "FLOP")
        teacher += masked * amount(sample.teacher_flops, "FLOP")
        if stage2.unmasked_epochs:
            unmasked = once * count(stage2.unmasked_epochs, "epochs without a mask")
            trained += unmasked * amount(sum(sample.unmasked_flops.values()), "FLOP")
        seen[sample.medium] = once * count(epochs, "epochs")
        read += seen[sample.medium] * count(sample.read_bytes_per_view, "B")
        recorded[sample.medium] = _recorded(sample)
        recorded_teacher += _recorded(sample) * amount(sample.teacher_flops, "FLOP")
        written += _recorded(sample) * count(sample.bytes_per_view, "B")
    batch, largest = micro_batch(stage2.train, batch_size), max(samples, key=lambda sample: sample.frame_bytes)
    frames, rows = amount(largest.frame_bytes, "B"), count(sum(map(_rows, samples)), "rows")
    online = Work(
        flops=trained + teacher, videos=seen["video"], images=seen["image"], moved=nothing, batch=batch,
        sample_bytes=frames, rows=nothing,
    )  # fmt: skip
    extraction = Work(
        flops=recorded_teacher, videos=recorded["video"], images=recorded["image"], moved=written,
        batch=count(features.batch_size, "views"), sample_bytes=frames, rows=rows,
        together=min(next((one.views for one in samples if one.medium == "video"), 1), features.batch_size),
    )  # fmt: skip
    cached = Work(
        flops=trained, videos=nothing, images=nothing, moved=read, batch=batch,
        sample_bytes=amount(largest.read_bytes_per_view, "B"), rows=rows,
    )  # fmt: skip
    return both_modes(features, stage2.train, hardware, online, extraction, cached)


def _rows(sample: SampleCost) -> int:
    return sample.count * sample.views
