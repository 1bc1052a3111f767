"""Promoting: judge, write down, and move the alias `champion` last; killed between two steps, a second run finishes the job."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from umt_pipeline.commands.evaluate_again import only_one, promotion_workspace
from umt_pipeline.commands.judging import Asked, document, gate_params, judge_versions
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.files import read_json, staged_file, write_json
from umt_pipeline.project_config import config_loader
from umt_pipeline.registry.names import CHALLENGER, CHAMPION, registered_name
from umt_pipeline.registry.promoting import GATE, make_champion, write_verdict
from umt_pipeline.registry.reading import Version, connect, version_at
from umt_pipeline.reports.promotion.compared import Promotion
from umt_pipeline.reports.promotion.page import interval, promotion_page, provenance, signed
from umt_pipeline.reports.render import render

logger = logging.getLogger(__name__)

# The tag that holds promotion_KIND.json whole.
DOCUMENT = f"{GATE}document"


@dataclass(frozen=True)
class Promoted:
    """What became of a promotion.

    Attributes:
        challenger: the version that was judged.
        found: the comparison; None: the challenger is the champion already.
        moved: whether the alias ``champion`` is the challenger's now.
        document: where the verdict was written to.
        page: where the page was written to.
    """

    challenger: Version
    found: Promotion | None
    moved: bool
    document: Path
    page: Path


def promote(asked: Asked, confirm: Callable[[Promotion], bool]) -> Promoted:
    """Judge the challenger of a registered model, and make it the champion if the gate says so.

    Files are written first, tags second, and the alias moves last. The alias ``challenger`` stays where it is: it says what
    DVC has locked now, and a second promotion finds by it that there is nothing left to do.

    Args:
        asked: which model.
        confirm: asked before the alias moves; the verdict is written down already.

    Raises:
        ConfigError: there is no challenger, or no gate for models of this kind.
        UmtError: see :func:`umt_pipeline.commands.judging.judge_versions`.
    """
    gate_params(asked)
    connect(asked.project, asked.corpus)
    name = registered_name(asked.corpus, asked.kind)
    documents, pages = _folders(asked)
    told = {"document": documents / f"promotion_{asked.kind}.json", "page": pages / f"promotion_{asked.kind}.html"}
    workspace = promotion_workspace(asked.project, asked.corpus, asked.kind)
    while True:
        with only_one(workspace, f"promoting {name}"):
            challenger, champion = _both(asked, name)
            if champion is not None and champion.version == challenger.version:
                _restore_document(told["document"], challenger)
                return Promoted(challenger, None, True, **told)
            found = judge_versions(asked, challenger, champion)
            write_json(told["document"], dict(document(found)))
            _write_page(told["page"], found)
            write_verdict(challenger, verdict_tags(found, champion))
        if found.verdict.verdict != "promoted" or not confirm(found):
            return Promoted(challenger, found, False, **told)
        with only_one(workspace, f"promoting {name}"):
            # Others may have promoted meanwhile, here or on another machine: what was judged is then no longer the question.
            if _numbers(*_both(asked, name)) == _numbers(challenger, champion):
                make_champion(challenger)
                return Promoted(challenger, found, True, **told)
        logger.warning("%s: champion or challenger changed in the meantime; it is judged again", name)


def verdict_tags(found: Promotion, champion: Version | None) -> dict[str, str]:
    """Return what is written on the challenger's version: the verdict, against whom, and each number with its interval."""
    tags = {
        f"{GATE}verdict": found.verdict.verdict,
        f"{GATE}reason": found.verdict.reason,
        f"{GATE}champion": champion.version if champion else "none",
        DOCUMENT: json.dumps(document(found), sort_keys=True),
    }
    for metric in found.verdict.metrics:
        said = f"{metric.champion:.1f} to {metric.challenger:.1f}, {signed(metric.difference)}"
        tags[f"{GATE}{metric.name}"] = f"{said} ({interval(metric.low, metric.high)}): {metric.verdict}"
    return tags


def _restore_document(path: Path, champion: Version) -> None:
    """Write the verdict by which a version became champion, where a promotion elsewhere was killed before it was committed."""
    if (said := champion.tags.get(DOCUMENT)) is None:
        return
    wanted = json.loads(said)
    if not path.is_file() or read_json(path).get("challenger") != wanted["challenger"]:
        write_json(path, wanted)
        logger.info("%s: written again, as the registry has it", path)


def _both(asked: Asked, name: str) -> tuple[Version, Version | None]:
    challenger = version_at(name, CHALLENGER)
    if challenger is None:
        command = " ".join(["umt register", *([asked.corpus] if asked.corpus else []), "--kind", asked.kind])
        raise ConfigError(f"{name}: expected a version with the alias {CHALLENGER}, found none. Register the model: {command}.")
    return challenger, version_at(name, CHAMPION)


def _numbers(challenger: Version, champion: Version | None) -> tuple[str, str | None]:
    return challenger.version, champion.version if champion else None


def _folders(asked: Asked) -> tuple[Path, Path]:
    places: Mapping[str, object] = config_loader(asked.project, asked.corpus)["globals"]
    return asked.project / str(places["results"]), asked.project / str(places["data"]) / "08_reporting"


def _write_page(path: Path, found: Promotion) -> None:
    html = render(promotion_page(found), provenance(found), found.params.model_dump(mode="json"))
    with staged_file(path) as staged:
        staged.write_text(html, encoding="utf-8", newline="")
