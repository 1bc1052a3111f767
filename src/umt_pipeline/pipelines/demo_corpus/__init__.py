"""Draw the demo corpus: real video files, captions and labels."""

from umt_pipeline.pipelines.demo_corpus.pipeline import create_pipeline

__all__ = ["create_pipeline"]
