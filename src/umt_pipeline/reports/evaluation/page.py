"""The page of the evaluation: everything that a run has to show, from the tables that came in to the clips that are found."""

from __future__ import annotations

from collections.abc import Sequence

from umt_pipeline.evaluation.chance import chance_agreement
from umt_pipeline.reports.evaluation.data import data_section
from umt_pipeline.reports.evaluation.headline import bars, clips_in, summary
from umt_pipeline.reports.evaluation.opening import opening
from umt_pipeline.reports.evaluation.results import EvaluationResults, Trained
from umt_pipeline.reports.figures import training_curves
from umt_pipeline.reports.page import Block, Fold, FrameLoader, Page, Section, Strips, Table, Text, subsection
from umt_pipeline.reports.systems import RETRIEVAL_COLUMNS, cost_table, found_clips, system_table
from umt_pipeline.reports.tables import facts

_PROBES = {"linear": "Linear probe", "knn": "Nearest neighbours", "attentive": "Attentive probe"}
_STAGES = {"teacher": "Teacher", "stage1": "Stage 1: distillation", "stage2": "Stage 2: video and text"}
_RETRIEVAL_NOTE = (
    "R@k: share of queries with a right answer among the first k. MedR and MeanR: median and mean rank of the first right "
    "answer, 1 is best. Dual: cosine of the outputs of the two encoders. Dual softmax: each cosine weighed by how little "
    "the set's other queries like the same candidate, which no search with a single query can know; such rows are never "
    "marked as best. Re-ranked: the best of the dual ones, ordered anew with the matching head, as its protocol says (by "
    "the head alone, or by a weighted sum with the cosine). The teacher averages its frames. Chance is a random order of "
    "the same candidates; clips with the same text all count as right. “Perfect on …” knows these labels of every clip and "
    "nothing else."
)


def evaluation_page(found: EvaluationResults, masks: Sequence[Strips], frames: FrameLoader) -> Page:
    """Return the page.

    Args:
        found: what it is about.
        masks: from :func:`umt_pipeline.reports.evaluation.data.mask_pictures`.
        frames: reads a clip that an example shows.
    """
    return Page(
        title="Unmasked Teacher pipeline: report",
        summary=summary(found),
        apart=True,
        notes=[f"{record['task']}: {record['note']}" for record in found.records if record.get("note")],
        sections=[
            opening(found, masks),
            _results(found),
            _training(found.trained),
            Section(
                "Masks and attention",
                masks[1:] or masks,  # the first one opens the page
                "What the student saw of recorded views. The teacher's attention (bright is high, scaled per frame) decides "
                "which patches stay; the student reads only these.",
                "There are no mask pictures: the feature store has no rows.",
            ),
            Section(
                "Retrieval examples",
                found_clips(found.examples),
                "The clips that each system puts first, as rows of frames from left to right. Green and ✓: a right answer. Red "
                "and ✗: a wrong one. Hits and misses are those of the last system in each row. Queries are spread evenly "
                "over both; where re-ranking makes or loses hits, one of these is added.",
                "There are no examples: retrieval was not run.",
            ),
            data_section(found),
            Section(
                "Feature store",
                [facts("Feature store", found.prepared.features)],
                "What the student reads in every epoch: pixels, masks and teacher targets, written once.",
            ),
        ],
        records=found.records,
        frames=frames,
    )


def _results(found: EvaluationResults) -> Section:
    blocks: list[Block | None] = [
        bars(found),
        *subsection("Probes on frozen features", _probe_tables(found), "The probes were not run."),
        *subsection("Retrieval", _retrieval_tables(found), "Retrieval was not run."),
        *subsection(
            "Agreement of the first clip with the described one", _agreement_tables(found), "Agreement was not measured."
        ),
    ]
    explain = (
        "All on held-out clips. The best value of each column is set in bold. Rows in italics come from no model: they are "
        "computed from the tables."
    )
    return Section("Results", blocks, explain)


def _probe_tables(found: EvaluationResults) -> list[Table | None]:
    chance = {"Most frequent label (chance)": found.majority()}
    probes, split = found.metrics("probe"), found.params.test_split
    return [
        system_table(f"{title}: accuracy on {split}, in percent", probes[kind], found.params.tasks, chance)
        for kind, title in _PROBES.items()
        if kind in probes
    ]


def _retrieval_tables(found: EvaluationResults) -> list[Block | None]:
    made: list[Block | None] = []
    for name, systems in sorted(found.metrics("retrieval").items()):
        caption = f"Retrieval on {name}, {clips_in(found, name)}: recall in percent, median and mean rank"
        made.append(system_table(caption, systems, RETRIEVAL_COLUMNS, found.references(name)))
    return [*made, cost_table(found.costs), Text(_RETRIEVAL_NOTE)] if made else []


def _agreement_tables(found: EvaluationResults) -> list[Table | None]:
    made = []
    for name, systems in sorted(found.metrics("agreement").items()):
        chance = {"Two clips drawn at random": chance_agreement(found.tables.labels, found.clips, name)}
        caption = f"How often the first clip agrees with the described one on {name}, in percent"
        made.append(system_table(caption, systems, found.params.tasks, chance))
    return made


def _training(trained: Trained) -> Section:
    blocks: list[Block | None] = []
    for stage, title in _STAGES.items():
        runs = {title.partition(":")[0]: trained.histories[stage]}
        if stage == "stage2":
            runs = {"From stage 1": trained.histories[stage], "From scratch (control)": trained.histories["control"]}
        blocks += subsection(title, [training_curves(stage, runs)], "Not run, or nothing was logged.")
    numbers = [
        facts(f"{title.partition(':')[0]}: {what} of the stage", told[stage])
        for stage, title in _STAGES.items()
        for what, told in (("numbers", trained.metrics), ("times", trained.times))
        if stage in told
    ]
    return Section("Training", [*blocks, Fold("Numbers of each stage", numbers) if any(numbers) else None])
