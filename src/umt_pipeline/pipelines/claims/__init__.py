"""The paper's claims in miniature."""

from umt_pipeline.pipelines.claims.pipeline import create_pipeline

__all__ = ["create_pipeline"]
