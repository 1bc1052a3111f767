"""The names of precisions, apart from torch, so that reading parameters stays quick."""

from __future__ import annotations

from typing import Literal

# What parameters may ask for, and what work runs in; see :mod:`umt_pipeline.compute.precision`.
AskedPrecision = Literal["auto", "fp32", "bf16"]
Precision = Literal["fp32", "bf16"]
