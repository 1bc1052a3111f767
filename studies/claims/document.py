"""The study as a Markdown document."""

from __future__ import annotations

from collections.abc import Iterator

from studies.claims.arms import ARMS, BASELINE, Comparison
from studies.claims.findings import CONFIDENCE, Findings, Verdict
from umt_pipeline.masking import MaskConfig, visible_count


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
    patches = (config.size // config.patch_size) ** 2
    hidden = patches - visible_count(patches, MaskConfig().ratio)
    rates = ", ".join(f"{lr:g}" for lr in config.fine_tuning.lrs)
    yield "# The paper's claims in miniature"
    yield ""
    yield (
        "Written by `make claims` (the package `studies.claims`). Every arm is a video ViT "
        f"({config.student.depth} blocks, width {config.student.dim}, clips of {config.size} pixels) that is pre-trained for "
        f"{config.pretraining.steps} steps of {config.pretraining.batch_size} clips and then fine-tuned for "
        f"{config.fine_tuning.steps} steps of {config.fine_tuning.batch_size} labelled clips on `{appearance}` and `{motion}` "
        "at once: an attention pool over all tokens, as in stage 2, and a linear head each. Where nothing else is said, at "
        f"most {ARMS[BASELINE].labelled} clips of each class of `{appearance}` have labels. A mask ratio of "
        f"{MaskConfig().ratio:g} hides {hidden} of the {patches} patches of a frame."
    )
    yield ""
    yield (
        f"Every arm is run with the same learning rates (pre-training {', '.join(f'{lr:g}' for lr in config.pretraining.lrs)}, "
        f"fine-tuning {rates}) and with seeds {', '.join(map(str, config.seeds))}; for each task the rates with the best mean "
        f"accuracy on {_splits(config.validation_splits)} are reported: top-1 in percent on {_splits(config.test_splits)}, "
        f"{config.views} views a clip, mean ± sample deviation over seeds. Seeds differ in weights, order, frames, masks and "
        "labelled clips; all share the clips and one teacher. Every run is in `results/plots/claims_runs.csv`."
    )
    yield ""
    yield (
        f"`{appearance}` can be told from one frame, as most of Kinetics-400 can; `{motion}` cannot, as most of "
        "Something-Something V2. The last columns are the paper's numbers for these two (ViT-B/16, arXiv 2303.16058, tables 1 "
        "to 3), where it has some. *Time* is that of pre-training, UMT's being 1, measured while other runs were beside it. "
        "The teacher is the small CLIP that comes with the demo world, trained on single frames of all its kinds of things "
        "with sentences that name them: it hands on what it knows of appearance and nothing about motion."
    )
    yield ""
    yield f"![Accuracy of every arm, a dot per seed, a line at their mean]({figure})"
    yield ""


def _summary(findings: Findings) -> Iterator[str]:
    appearance, motion = findings.config.tasks
    verdicts = [verdict for found in findings.verdicts.values() for verdict in found]
    yield "## In short"
    yield ""
    yield (
        f"Differences of means in points with their {CONFIDENCE:.0%} confidence interval over seeds (Welch's t). *Yes*, or "
        f"*the other way round*: zero lies outside; else it cannot be told. Of {len(verdicts)} such cells about "
        f"{(1 - CONFIDENCE) * len(verdicts):.0f} would lie outside by chance alone, if all arms were equal. A direction is "
        "the paper's, or ours where the paper has no number."
    )
    yield ""
    yield f"| direction | whose | {appearance} | | {motion} | |"
    yield "| --- | --- | ---: | --- | ---: | --- |"
    for comparison in findings.shown:
        by_pair: dict[tuple[str, str], list[Verdict]] = {}
        names = {arm.name: title for arm, title in findings.titles(comparison)}
        for verdict in findings.verdicts[comparison.key]:
            expected = verdict.expectation
            pair = f"{names[expected.better]} > {names[expected.worse]}"
            by_pair.setdefault((pair, expected.source), []).append(verdict)
        for (pair, source), found in by_pair.items():
            said = {verdict.task: f"{verdict.difference:+.1f} ± {verdict.margin:.1f} | {verdict.says}" for verdict in found}
            cells = " | ".join(said.get(task, " | no difference claimed") for task in findings.config.tasks)
            yield f"| {pair} | {source} | {cells} |"
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
            ", ".join(f"{arm.rates[task]:g}" for task in findings.config.tasks),
            *(("", "") if published is None else (f"{published.appearance:.1f}", f"{published.motion:.1f}")),
        ]
        yield f"| {' | '.join(cells)} |"
    yield ""
    if comparison.note:
        yield comparison.note
        yield ""


def _splits(names: tuple[str, ...]) -> str:
    *others, last = (f"`{name}`" for name in names)
    return f"{', '.join(others)} and {last}" if others else last
