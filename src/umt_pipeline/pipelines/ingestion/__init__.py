"""Ingestion: the user's tables and files in, clean tables, a reject table and counts that reconcile out."""

from umt_pipeline.pipelines.ingestion.pipeline import create_pipeline

__all__ = ["create_pipeline"]
