"""Nested mappings as lists of their values."""

from __future__ import annotations

from umt_pipeline.core.nested import dotted, leaves

VALUES = {"train": {"lr": 0.1, "betas": [0.9, 0.95], "optim": {}}, "seed": 3}


def test_each_value_comes_with_the_keys_that_lead_to_it() -> None:
    assert list(leaves(VALUES)) == [
        (("train", "lr"), 0.1),
        (("train", "betas"), [0.9, 0.95]),
        (("train", "optim"), {}),
        (("seed",), 3),
    ]
    assert dotted(VALUES) == {"train.lr": 0.1, "train.betas": [0.9, 0.95], "train.optim": {}, "seed": 3}
