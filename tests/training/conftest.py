"""Makes ``toy_tasks`` importable here and, through ``PYTHONPATH``, in the processes that the launcher starts."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
