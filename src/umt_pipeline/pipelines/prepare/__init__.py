"""Prepare: a folder of videos in, the same videos in a form that training reads fast out. Optional, before ingestion."""

from umt_pipeline.pipelines.prepare.pipeline import create_pipeline

__all__ = ["create_pipeline"]
