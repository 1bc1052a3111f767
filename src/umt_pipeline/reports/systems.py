"""What pages of retrieval and probes share: names and order of systems, their tables, what re-ranking costs, what was found."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from umt_pipeline.evaluation.examples import RetrievalExample
from umt_pipeline.reports.page import Block, Cell, Example, Film, Heading, Said, Table
from umt_pipeline.reports.tables import NOTHING, Scored, score_table, table

# Columns of a retrieval set, in the order of its table; both directions are measured alike.
RETRIEVAL_COLUMNS = tuple(f"{way}_{name}" for way in ("t2v", "v2t") for name in ("r1", "r5", "r10", "medr", "meanr"))
_NAMES = {  # also the order of rows
    "teacher_cls": "Teacher, class token",
    "teacher_patch": "Teacher, patch mean",
    "teacher": "Teacher",
    "untrained": "Untrained student",
    "stage1": "Stage 1",
    "control": "Stage 2 from scratch",
    "stage2": "Stage 2",
    "zero_shot": "Zero-shot",
    "fine_tuned": "Fine-tuned",
}
_SCORES = {"": "", "dual": "dual", "dsl": "dual softmax", "reranked": "re-ranked"}  # also the order of a model's rows
_DIRECTIONS = {"t2v": "Text → video", "v2t": "Video → text"}


def system_name(system: str) -> str:
    """Return a readable name of an encoder or of a retrieval system such as ``stage2/dual``; unknown names stay."""
    model, score = _split_system(system)
    if model not in _NAMES or score not in _SCORES:
        return system.replace("_", " ")
    return f"{_NAMES[model]}, {_SCORES[score]}" if score else _NAMES[model]


def system_order(system: str) -> tuple[int, int, str]:
    """Return the sort key of a system: teacher, untrained, stage 1, control, stage 2, zero-shot, fine-tuned, others."""
    model, score = _split_system(system)
    if model not in _NAMES:
        return len(_NAMES), 0, system
    return list(_NAMES).index(model), list(_SCORES).index(score), system


def uses_other_queries(system: str) -> bool:
    """Return whether a system's scores for one query depend on the set's other queries."""
    return _split_system(system)[1] == "dsl"


def _split_system(system: str) -> tuple[str, str]:
    """Split ``stage2/dual``, in agreement keys ``stage2_dual``, into model and score; unknown systems stay whole."""
    for score in _SCORES:
        model = system.replace("/", "_").removesuffix(f"_{score}")
        if score and model in _NAMES and model != system:
            return model, score
    return system, "" if system in _NAMES else system


def system_table(
    caption: str,
    systems: Mapping[str, Mapping[str, float]],
    columns: Sequence[str],
    references: Mapping[str, Mapping[str, float]],
) -> Table | None:
    """Return systems x columns with the best value of each column marked and reference rows (chance ...) below.

    Systems scored by dual softmax stand out of competition: they read all queries at once.

    Args:
        caption: its title.
        systems: values by column, of each system.
        columns: those that come first, in order, as far as they are there; others follow by name.
        references: what no model made, by name.
    """
    there = {column for row in systems.values() for column in row}
    ordered = [column for column in columns if column in there]
    ordered += sorted(there.difference(ordered))
    rows = [
        Scored(Cell(system_name(name), title=name), systems[name], not uses_other_queries(name))
        for name in sorted(systems, key=system_order)
    ]
    ranks = [column for column in ordered if column.endswith(("medr", "meanr", "rank"))]
    made = score_table(caption, rows, {column: _column_name(column) for column in ordered}, references, ranks)
    directions = [_DIRECTIONS.get(column.partition("_")[0], "") for column in ordered]
    groups = tuple((name, len(list(run))) for name, run in groupby(directions)) if any(directions) else ()
    return made and replace(made, groups=groups)


def _column_name(column: str) -> str:
    """Return the head of a metric's column without its direction, e.g. ``R@1`` for ``t2v_r1``."""
    direction, _, metric = column.partition("_")
    if direction not in _DIRECTIONS:
        return column.replace("_", " ")
    recall = re.fullmatch(r"r(\d+)", metric)
    return f"R@{recall.group(1)}" if recall else {"medr": "MedR", "meanr": "MeanR"}.get(metric, metric)


def cost_table(costs: Mapping[str, Mapping[str, float]]) -> Table | None:
    """Return what re-ranking cost, by the task of the record: ``pairs`` and ``seconds``."""
    rows = []
    for task, cost in costs.items():
        name, system = task.removeprefix("retrieval/").split("/", 1)
        pairs, seconds = int(cost["pairs"]), float(cost["seconds"])
        rate = f"{pairs / seconds:,.0f}" if seconds else NOTHING
        rows.append((system_name(system), name, pairs, f"{seconds:.2f}", rate))
    note = "Each pair of both directions is scored once. Time of the matching head alone, on the machine of this run."
    return table("What re-ranking costs", ("", "Set", "Pairs", "Seconds", "Pairs/s"), rows, note)


def found_clips(examples: Sequence[RetrievalExample]) -> list[Block]:
    """Return queries with the clips that each system found, set by set; the last system of a query decides what is a hit.

    Args:
        examples: those of one set, and within it of one query, stand together.
    """
    blocks: list[Block] = []
    for name, of_set in groupby(examples, key=lambda example: example.set):
        blocks.append(Heading(f"Set: {name}"))
        for _, group in groupby(of_set, key=lambda example: (example.query_video_id, example.query)):
            blocks.append(found_by(list(group)))
    return blocks


def found_by(examples: Sequence[RetrievalExample]) -> Example:
    """Return one query with what each system found; the last one, in the order of tables, decides what is a hit."""
    systems = sorted(examples, key=lambda example: system_order(example.system))
    hit = systems[-1].rank == 1
    said = tuple(
        Said(
            system_name(found.system),
            note=f"first right answer: rank {found.rank}",
            films=tuple(Film(video, bool(right)) for video, right in zip(found.top, found.relevant, strict=True)),
        )
        for found in systems
    )
    first = systems[0]
    return Example(first.query, Film(first.query_video_id), said, "hit" if hit else "miss", hit, about="the described clip")
