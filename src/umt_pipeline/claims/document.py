"""The study as a Markdown document."""

from __future__ import annotations

from collections.abc import Iterator

from umt_pipeline.claims.arms import BASELINE, Comparison
from umt_pipeline.claims.findings import ArmResult, Findings, Verdict


def document(findings: Findings, figure: str) -> str:
    """Return the document.

    Args:
        findings: what the runs say.
        figure: address of the picture, as seen from the document.
    """
    lines = [*_opening(findings, figure), *_summary(findings)]
    for comparison in findings.shown:
        lines += _section(findings, comparison)
    return "\n".join(lines) + "\n"


def _opening(findings: Findings, figure: str) -> Iterator[str]:
    config = findings.config
    appearance, motion = config.tasks
    search = len(config.pretraining.lrs) * len(config.fine_tuning.lrs)
    seeds = ", ".join(map(str, config.seeds))
    yield "# The paper's claims in miniature"
    yield ""
    yield (
        "Written by `make claims` (the Kedro pipeline `claims`). Every arm is a video ViT "
        f"({config.student.depth} blocks, width {config.student.dim}, clips of {config.size} pixels) that is pre-trained for "
        f"{config.pretraining.steps} steps of {config.pretraining.batch_size} clips and then fine-tuned for "
        f"{config.fine_tuning.steps} steps of {config.fine_tuning.batch_size} labelled clips on `{appearance}` and `{motion}` "
        "at once, an attention pool over all tokens and a linear head each. "
        f"Every arm gets the same search: {len(config.pretraining.lrs)} learning rates of pre-training times "
        f"{len(config.fine_tuning.lrs)} of fine-tuning ({search} runs; {len(config.fine_tuning.lrs)} where nothing is "
        f"pre-trained), chosen by the mean accuracy on {_splits(config.validation_splits)} with the first seed. Reported is "
        f"top-1 in percent on {_splits(config.test_splits)}, {config.views} views a clip, mean ± sample deviation over seeds "
        f"{seeds}. All seeds share clips and teacher; they differ in weights, order, frames and masks."
    )
    yield ""
    yield (
        f"`{appearance}` can be told from one frame, as most of Kinetics-400 can; `{motion}` cannot, as most of "
        "Something-Something V2. The last columns are the paper's numbers for these two (ViT-B/16, arXiv 2303.16058, tables 1 "
        "to 3), where it has some. *Time* is that of pre-training, UMT's being 1, measured while other runs were beside it."
    )
    yield ""
    yield f"![Accuracy of every arm, a dot per seed, a line at their mean]({figure})"
    yield ""


def _summary(findings: Findings) -> Iterator[str]:
    appearance, motion = findings.config.tasks
    yield "## In short"
    yield ""
    yield (
        "Differences of means in points, ± their sample deviation over seeds; a difference that is not larger than its own "
        "deviation says nothing."
    )
    yield ""
    yield f"| the paper's direction | {appearance} | | {motion} | |"
    yield "| --- | ---: | --- | ---: | --- |"
    for comparison in findings.shown:
        by_pair: dict[str, list[Verdict]] = {}
        names = {arm.name: title for arm, title in findings.titles(comparison)}
        for verdict in findings.verdicts[comparison.key]:
            pair = f"{names[verdict.expectation.better]} > {names[verdict.expectation.worse]}"
            by_pair.setdefault(pair, []).append(verdict)
        for pair, verdicts in by_pair.items():
            said = {verdict.task: f"{verdict.difference:+.1f} ± {verdict.spread:.1f} | {verdict.says}" for verdict in verdicts}
            cells = " | ".join(said.get(task, " | no difference claimed") for task in findings.config.tasks)
            yield f"| {pair} | {cells} |"
    yield ""


def _section(findings: Findings, comparison: Comparison) -> Iterator[str]:
    appearance, motion = findings.config.tasks
    yield f"## {comparison.title}"
    yield ""
    yield f"| | {appearance} | {motion} | time | learning rates | paper: K400 | paper: SSV2 |"
    yield "| --- | ---: | ---: | ---: | --- | ---: | ---: |"
    for arm, title in findings.titles(comparison):
        published = comparison.published.get(arm.name)
        cells = [
            f"**{title}**" if arm.name == BASELINE else title,
            *(f"{arm.mean(task):.1f} ± {arm.spread(task):.1f}" for task in findings.config.tasks),
            "" if arm.time is None else f"{arm.time:.2f}",
            _rates(arm),
            *(("", "") if published is None else (f"{published.appearance:.1f}", f"{published.motion:.1f}")),
        ]
        yield f"| {' | '.join(cells)} |"
    yield ""
    if any(verdict.says != "as in the paper" for verdict in findings.verdicts[comparison.key]):
        yield comparison.why
        yield ""


def _rates(arm: ArmResult) -> str:
    if arm.pretraining_lr is None:
        return f"{arm.fine_tuning_lr:g}"
    return f"{arm.pretraining_lr:g}, {arm.fine_tuning_lr:g}"


def _splits(names: tuple[str, ...]) -> str:
    return " and ".join(f"`{name}`" for name in names)
