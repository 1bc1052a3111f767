"""What the page of a promotion is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from umt_pipeline.evaluation.gate import GateParams, Verdict
from umt_pipeline.evaluation.spread import Ranged


@dataclass(frozen=True)
class Contender:
    """One of the two models.

    Attributes:
        title: how people call it, such as "demo_stage2, version 3".
        facts: where it comes from; nested as you like.
        numbers: of the gate, by name; those that its evidence has.
        records: the same with their protocols, as :class:`umt_pipeline.evaluation.records.Record` dumps them.
        history: rows of its training, with a column ``step``; without rows where it is not known here.
        no_history: why it is not.
    """

    title: str
    facts: Mapping[str, Any]
    numbers: Mapping[str, Ranged] = field(default_factory=dict)
    records: Sequence[Mapping[str, Any]] = ()
    history: pd.DataFrame = field(default_factory=pd.DataFrame)
    no_history: str = ""


@dataclass(frozen=True)
class Promotion:
    """A champion, a challenger and a verdict.

    Attributes:
        kind: of model, such as ``stage2``.
        verdict: of the gate, or without metrics where there was nothing to judge.
        params: of the gate.
        challenger: the new model.
        champion: the model that it is to replace; None: there is none.
        differences: how the protocols of their evaluations differ, in sentences; of the champion as it was registered.
        again: what was measured again for that, and how it went; empty: nothing was.
        earlier: rows of training of the last runs, by name.
    """

    kind: str
    verdict: Verdict
    params: GateParams
    challenger: Contender
    champion: Contender | None = None
    differences: Sequence[str] = ()
    again: str = ""
    earlier: Mapping[str, pd.DataFrame] = field(default_factory=dict)
