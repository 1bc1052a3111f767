"""Readers: the annotation files of public data sets in, our tables out.

Each reader knows one data set's files in the form that their authors, or UMT's, published. What it gives goes straight
into the ingestion. ``READERS`` lists them; ``umt tables`` prints the list.
"""

from umt_pipeline.tables.annotations import Annotations, Source, check_folder, write_annotations
from umt_pipeline.tables.reader import Reader, Role
from umt_pipeline.tables.registry import READERS, find_reader

__all__ = ["READERS", "Annotations", "Reader", "Role", "Source", "check_folder", "find_reader", "write_annotations"]
