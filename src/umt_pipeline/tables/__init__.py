"""Readers: other people's files in, our tables out.

Each of ``READERS`` knows one data set's annotation files in the form that their authors, or UMT's, published. What it gives
goes straight into the ingestion. ``umt tables`` prints the list.

One's own corpus is read by :mod:`~umt_pipeline.tables.folders` (a folder of videos, with what stands beside them),
:mod:`~umt_pipeline.tables.files` (tables), :mod:`~umt_pipeline.tables.webdataset` (tar shards) and
:mod:`~umt_pipeline.tables.staging` (what lies elsewhere); :mod:`~umt_pipeline.tables.media` joins the last three.
"""

import csv

from umt_pipeline.tables.annotations import Annotations, Source, check_folder, write_annotations
from umt_pipeline.tables.reader import Reader, Role
from umt_pipeline.tables.registry import READERS, find_reader

__all__ = ["READERS", "Annotations", "Reader", "Role", "Source", "check_folder", "find_reader", "write_annotations"]

# A cell may be as large as the csv module can say: its own limit of 128 kB is one that captions and transcripts exceed.
csv.field_size_limit(2**31 - 1)
