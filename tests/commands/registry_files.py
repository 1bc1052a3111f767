"""A tiny registry: models whose evidence and records are made up, registered in a database of the test's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.tracking import MlflowClient

from umt_pipeline.core.files import sha256_file, sha256_folder, write_json
from umt_pipeline.evaluation.evidence import evidence_rows, joined
from umt_pipeline.evaluation.records import Protocol, Record

CLIPS = 200
TASK = "retrieval/test/stage2/dual"
T2V, V2T = f"{TASK}/t2v_r1", f"{TASK}/v2t_r1"
GATE = f"""\
gate:
  stage2:
    metrics: {{{T2V}: 0.0}}
    guards: {{{V2T}: 5.0}}
    confidence: 0.95
    resamples: 1000
    seed: 0
"""


def hits(share: float, seed: int = 0) -> np.ndarray:
    """Return bool [CLIPS]: the same first so many per cent of the clips in an order that the seed decides."""
    order = np.random.default_rng(seed).permutation(CLIPS)
    found = np.zeros(CLIPS, dtype=bool)
    found[order[: round(share * CLIPS)]] = True
    return found


def records(seed: int = 0, **protocol: Any) -> list[dict[str, Any]]:
    """Return the records of an evaluation."""
    how = {"annotation_sha256": "9f" * 32, "frames": 4, "resolution": 48, "score_type": "dual", "queries": CLIPS, **protocol}
    made = Protocol(split="test", clips=CLIPS, model="stage2", checkpoint_sha256="ac" * 32, seed=seed, **how)
    return [Record(task=TASK, values={"t2v_r1": 50.0}, protocol=made).model_dump(mode="json")]


def evidence(t2v: np.ndarray, v2t: np.ndarray | None = None) -> Any:
    """Return evidence with rank 1 for hits and 2 for the others."""
    items = [f"caption{number}" for number in range(CLIPS)]
    videos = [f"clip{number}" for number in range(CLIPS)]
    sides = {"t2v_rank": t2v, "v2t_rank": hits(0.5) if v2t is None else v2t}
    return joined(evidence_rows(TASK, metric, items, videos, np.where(hit, 1, 2)) for metric, hit in sides.items())


def register_version(
    folder: Path, evidence_table: Any, records_list: Sequence[dict[str, Any]], md5: str, aliases: Sequence[str] = (),
    name: str = "demo_stage2",
) -> str:  # fmt: skip
    """Make a version of a registered model whose files lie in a folder, and return its number."""
    artifacts = folder / "artifacts"
    write_json(artifacts / "model" / "config.json", {"md5": md5})
    evidence_table.to_parquet(artifacts / "evidence.parquet", index=False)
    write_json(artifacts / "records.json", list(records_list))
    tags = {
        "umt.corpus": name.partition("_")[0],
        "umt.kind": name.partition("_")[2],
        "dvc.md5": md5,
        "git.commit": "01" * 20,
        "sha256.evidence": sha256_file(artifacts / "evidence.parquet"),
        "sha256.records": sha256_file(artifacts / "records.json"),
        "sha256.folder": sha256_folder(artifacts / "model"),
    }
    client = MlflowClient()
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    version = str(client.create_model_version(name, source=str(folder), tags=tags).version)
    for alias in aliases:
        client.set_registered_model_alias(name, alias, version)
    return version
