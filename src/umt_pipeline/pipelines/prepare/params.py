"""Parameters of the preparation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from umt_pipeline.core.config import Config
from umt_pipeline.core.identity import OPERATIONAL
from umt_pipeline.video.guarded import ReadLimits
from umt_pipeline.video.transcode import PreparedForm


class PrepareParams(Config):
    """What videos become, and what that may take.

    Attributes:
        form: of the prepared videos.
        limits: for one file. Encoding takes longer than the checks of the ingestion do.
        workers: processes; None: one per core; 1: the pipeline's own process, where a debugger works, but where no limit holds.
    """

    form: PreparedForm = PreparedForm()
    limits: Annotated[ReadLimits, OPERATIONAL] = ReadLimits(seconds=120.0, seconds_per_second=60.0)
    workers: Annotated[int | None, OPERATIONAL, Field(ge=1)] = None
