"""Kedro datasets: what the catalog can read and write. Each writes a whole file or folder, or none."""

from umt_pipeline.datasets.corpora import CorporaTableDataset
from umt_pipeline.datasets.documents import JsonDataset, TextFileDataset
from umt_pipeline.datasets.folder import FolderDataset, WorkspaceDataset
from umt_pipeline.datasets.table import RawTableDataset, TableDataset

__all__ = [
    "CorporaTableDataset",
    "FolderDataset",
    "JsonDataset",
    "RawTableDataset",
    "TableDataset",
    "TextFileDataset",
    "WorkspaceDataset",
]
