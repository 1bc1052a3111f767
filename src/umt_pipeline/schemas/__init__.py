"""What each table is: the one place that says so.

The ingestion checks what it writes by the models, row group by row group; they are attached to the catalog's tables by
``validator:``, so that a table is checked whenever it is read. Raw tables have the users' own column names;
:func:`select_columns` maps them to ours and checks them here.
"""

from umt_pipeline.schemas.evidence import Evidence
from umt_pipeline.schemas.mapping import Column, Constant, check_table, select_columns
from umt_pipeline.schemas.models import (
    SCHEMA_VERSION,
    Captions,
    Labels,
    RawCaptions,
    RawLabels,
    RawVideos,
    Rejects,
    Videos,
)
from umt_pipeline.schemas.reasons import NOTHING_LOST, OTHERS_DECIDE, RowReason
from umt_pipeline.schemas.tasks import NO_OPTION, Boxes, Questions, RawBoxes, RawQuestions

__all__ = [
    "NOTHING_LOST",
    "NO_OPTION",
    "OTHERS_DECIDE",
    "SCHEMA_VERSION",
    "Boxes",
    "Captions",
    "Column",
    "Constant",
    "Evidence",
    "Labels",
    "Questions",
    "RawBoxes",
    "RawCaptions",
    "RawLabels",
    "RawQuestions",
    "RawVideos",
    "Rejects",
    "RowReason",
    "Videos",
    "check_table",
    "select_columns",
]
