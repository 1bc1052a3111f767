"""What things are called in the registry: models, aliases, tags."""

from __future__ import annotations

from collections.abc import Iterable

from umt_pipeline.tracking.target import DEMO

CHALLENGER, CHAMPION = "challenger", "champion"

# Tags of a version. The first two together are what it is found again by.
MD5, EVIDENCE = "dvc.md5", "sha256.evidence"
RECORDS, WEIGHTS, FOLDER, SERVING = "sha256.records", "sha256.model", "sha256.folder", "sha256.serving"
CORPUS, KIND, STAGE, COMMIT = "umt.corpus", "umt.kind", "dvc.stage", "git.commit"


def registered_name(corpus: str | None, kind: str) -> str:
    """Return the name of a registered model.

    Args:
        corpus: its name; None: the demo.
        kind: of the model: the name of its dataset in the catalog without ``_model``.
    """
    return f"{corpus or DEMO}_{kind}"


def own_corpus(name: str | None) -> str | None:
    """Return what the rest of the project calls a corpus: the demo is None."""
    return None if name == DEMO else name


def corpus_of_name(name: str, kinds: Iterable[str]) -> str | None:
    """Return the corpus of a registered model's name; None: the demo, or a name that is not ours.

    Args:
        name: of the registered model.
        kinds: of models that there are.
    """
    kind = next((kind for kind in sorted(kinds, key=len, reverse=True) if name.endswith(f"_{kind}")), None)
    return None if kind is None else own_corpus(name.removesuffix(f"_{kind}"))
