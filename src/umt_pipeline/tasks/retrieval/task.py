"""Retrieval as a downstream task: fine-tuning a stage-2 model on captioned clips, and searching before and after it."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from umt_pipeline.compute.names import Precision
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.data.captions import CaptionSource, captioned_media
from umt_pipeline.data.mapped import write_table
from umt_pipeline.evaluation.chance import random_retrieval
from umt_pipeline.evaluation.encoders import VideoTextEncoder, clip_loader, frame_loader
from umt_pipeline.evaluation.evidence import joined
from umt_pipeline.evaluation.examples import RetrievalExample, choose_examples
from umt_pipeline.evaluation.metrics import NoDataError
from umt_pipeline.evaluation.params import PoolRule
from umt_pipeline.evaluation.records import Record
from umt_pipeline.evaluation.retrieval import RetrievalSet, build_retrieval_set
from umt_pipeline.evaluation.search import choice_costs, rerank_orders, search, search_costs, validation_set
from umt_pipeline.evaluation.workers import default_device, require_devices, work_precision
from umt_pipeline.evaluation.workplace import Part, open_workplace
from umt_pipeline.models.folders import load_config, weights_sha256
from umt_pipeline.models.tokenizer import load_tokenizer
from umt_pipeline.models.video_text import KIND, TOKENIZER_FOLDER, VideoTextConfig, load_video_text
from umt_pipeline.reports.page import Page
from umt_pipeline.tasks.retrieval.page import retrieval_page
from umt_pipeline.tasks.retrieval.params import RetrievalParams
from umt_pipeline.tasks.retrieval.training import RetrievalSpec
from umt_pipeline.tasks.task import DownstreamTask, Plan, Shown, Skipped, Tested

ZERO_SHOT, FINE_TUNED = "zero_shot", "fine_tuned"


@dataclass(frozen=True)
class RetrievalData:
    """What the model is trained and searched with.

    Attributes:
        start: folder of the stage-2 model.
        config: sizes of the fine-tuned model.
        train: samples and captions trained on.
        sets: what is searched, by name.
        validation: what the weight of re-ranking is chosen on; None: it is not chosen.
        videos: the videos of all splits.
        captions: the clean caption table.
        media: folder of the video files.
    """

    start: Path
    config: VideoTextConfig
    train: CaptionSource
    sets: Mapping[str, RetrievalSet]
    validation: RetrievalSet | None
    videos: pd.DataFrame
    captions: pd.DataFrame
    media: Path


class Retrieval(DownstreamTask[RetrievalParams, RetrievalData]):
    """Fine-tuning for text-video retrieval. What it is compared with is the model that it starts from."""

    name = "retrieval"
    params = RetrievalParams
    tables = ("videos", "captions", "raw_media", "stage2_model")
    headline: ClassVar = {"ft_r1": "retrieval/*/{model}/dual/t2v_r1"}
    has_control = False

    def model_name(self, params: RetrievalParams) -> str:
        return FINE_TUNED

    def gather(self, params: RetrievalParams, tables: Mapping[str, Any], workspace: Path) -> RetrievalData:
        """Check everything that training and search need. Images are neither trained on nor searched.

        Raises:
            ConfigError: no training clip has a caption, a set has no query, or that on which the weight of re-ranking is to be
                chosen; lengths and sizes do not fit the model, or the test wants more CUDA devices than there are.
            CheckpointError: ``stage2_model`` is no model of video and text.
        """
        tuning, test, stage2_model = params.fine_tuning, params.test, tables["stage2_model"]
        require_devices(test.nproc, "retrieval.test.nproc")
        start = VideoTextConfig.model_validate(load_config(stage2_model, KIND)[0])
        config = tuning.model_for(start)
        positions = start.text.max_positions
        if test.text_length is not None and test.text_length > positions:
            raise ConfigError(
                f"retrieval.test.text_length is {test.text_length}, but the model in {stage2_model} has {positions} positions "
                "for tokens: lower it"
            )
        videos, captions = tables["videos"], tables["captions"]
        clips = videos[videos["media"] == "video"].reset_index(drop=True)
        sets = {}
        of_split = {split: list(rows) for split, rows in clips.groupby("split")["video_id"]}
        for name in test.sets:
            try:
                sets[name] = build_retrieval_set(name, of_split.get(name, []), captions, test.caption)
            except NoDataError as error:
                raise ConfigError(f"retrieval.test.sets: {error}. Name another split, or add captions") from error
        validation = validation_set(test, "retrieval.test", of_split.get(test.validation_split, []), captions)
        samples, texts = captioned_media(
            clips, captions, params.train_split, tuning.corpora, start.clean_captions, stage="retrieval.fine_tuning"
        )
        tokenizer = stage2_model / TOKENIZER_FOLDER
        longest = min(load_tokenizer(tokenizer).model_max_length, positions)
        train = CaptionSource(
            samples=write_table(workspace, "retrieval_samples", samples),
            captions=write_table(workspace, "retrieval_captions", texts),
            tokenizer=tokenizer,
            max_length=tuning.max_length if tuning.max_length is not None else longest,
            clean=config.clean_captions,
        )
        return RetrievalData(stage2_model, config, train, sets, validation, clips, captions, tables["raw_media"])

    def runs(self, params: RetrievalParams, seed: int, data: RetrievalData) -> Plan:
        tuning = params.fine_tuning
        spec = RetrievalSpec(
            start=data.start,
            model=data.config,
            weights=tuning.weights.objectives(),
            pool=tuning.pool,
            captions=data.train,
            corpora=tuning.corpora,
            media_root=data.media,
            view=tuning.view,
            split=params.train_split,
            train=tuning.train,
            seed=seed,
        )
        return Plan({"": spec}, Skipped("retrieval is compared with the model that it starts from"))

    def test(
        self, params: RetrievalParams, seed: int, data: RetrievalData, models: Mapping[str, Path], workspace: Path
    ) -> Tested:
        """Search every set with the stage-2 model as it is, and with the fine-tuned one.

        Each sees a clip in the size that it was built for, and has a weight of its own for re-ranking, if weights are chosen.
        Features of an earlier run are found again in the workspace.
        """
        test = params.test
        load = functools.partial(_load, {ZERO_SHOT: data.start, **models}, test.pool, work_precision(test))
        chosen_on = () if data.validation is None else (data.validation,)
        tested = {video_id for found in (*data.sets.values(), *chosen_on) for video_id in found.video_ids}
        clips = data.videos[data.videos["video_id"].isin(tested)].sort_values("video_id")
        records: list[Record] = []
        evidence: list[pd.DataFrame] = []
        examples: list[RetrievalExample] = []
        with open_workplace(load, workspace / "retrieval_features", test.nproc) as workplace:
            features = workplace.features(
                {"test clips": Part(clips["video_id"].tolist(), _encoders)},
                dict(zip(clips["video_id"], clips["sha256"], strict=True)),
                clip_loader(clips, data.media),
                batch_size=test.batch_size,
                threads=test.workers,
            )["test clips"]
            validation = None if data.validation is None else (data.validation, features)
            orders = rerank_orders(test, "retrieval.test", workplace, validation)
            costs = choice_costs(test, orders)
            for found in data.sets.values():
                try:
                    searched = search(test, seed, found, workplace, features, orders)
                except NoDataError as error:
                    records.append(Record(task=f"retrieval/{found.name}", note=str(error)))
                    continue
                records += [one.record for one in searched]
                evidence += [one.evidence for one in searched]
                costs |= search_costs(searched)
                # The last model, the fine-tuned one, decides what is a hit.
                reranked = [one.system for one in reversed(searched) if one.system.score == "reranked"]
                examples += choose_examples(found, reranked, test.examples)
        return Tested(
            {"test": _by_set(records)}, records, example_table(examples), joined(evidence), times={"reranking": costs}
        )

    def page(self, shown: Shown[RetrievalParams, RetrievalData]) -> Page:
        """Show numbers before and after, cost, curves, and queries with the clips that were found."""
        data, params = shown.data, shown.params
        chance = {
            name: random_retrieval(data.videos, data.captions, name, params.test.caption) for name in shown.metrics["test"]
        }
        frames = frame_loader(data.videos, data.media, params.fine_tuning.view)
        return retrieval_page(shown, examples_of(shown.predictions), chance, frames)


def example_table(examples: Sequence[RetrievalExample]) -> pd.DataFrame:
    """Return a row per example; what was found, and whether it is right, as JSON lists."""
    rows = [
        (one.set, one.system, one.query, one.query_video_id, one.rank, *map(_as_json, (one.top, one.relevant)))
        for one in examples
    ]
    return pd.DataFrame(rows, columns=["set", "system", "query", "query_video_id", "rank", "found", "right"])


def examples_of(table: pd.DataFrame) -> list[RetrievalExample]:
    """Return the examples of a table of :func:`example_table`, which may have been read as text."""
    return [
        RetrievalExample(
            set=str(row["set"]),
            system=str(row["system"]),
            query=str(row["query"]),
            query_video_id=str(row["query_video_id"]),
            top=json.loads(row["found"]),
            relevant=json.loads(row["right"]),
            rank=int(row["rank"]),
        )
        for row in table.to_dict("records")
    ]


def _as_json(values: Sequence[Any]) -> str:
    return json.dumps([value if isinstance(value, str) else bool(value) for value in values])


@dataclass(frozen=True)
class _Models:
    video_text: Sequence[VideoTextEncoder]
    weights: Mapping[str, str]


def _load(folders: Mapping[str, Path], pool: PoolRule, precision: Precision) -> _Models:
    models = []
    for name, folder in folders.items():
        network, tokenizer = load_video_text(folder)
        network.to(default_device())
        models.append(VideoTextEncoder(name, network, tokenizer, keep_tokens=True, pool=pool, precision=precision))
    return _Models(models, {name: weights_sha256(folder) for name, folder in folders.items()})


def _encoders(models: _Models) -> Sequence[VideoTextEncoder]:
    return models.video_text


def _by_set(records: list[Record]) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Return the values of ``retrieval/<set>/<model>/<score>``."""
    found: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for record in records:
        if record.protocol is None:
            continue
        _, name, model, score = record.task.split("/")
        found.setdefault(name, {}).setdefault(model, {})[score] = dict(record.values)
    return found


TASK = Retrieval()
