"""The pipeline ``demo_corpus``: parameters → video files and raw tables."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from umt_pipeline.pipelines.demo_corpus.nodes import ask_about_demo_corpus, box_demo_corpus, make_demo_corpus


def create_pipeline() -> Pipeline:
    """Return the pipeline."""
    return Pipeline(
        [
            Node(
                make_demo_corpus,
                inputs=["params:demo_corpus", "params:seed", "workspace"],
                outputs=["raw_media", "raw_videos", "raw_captions", "raw_labels"],
                name="make_demo_corpus",
            ),
            Node(
                ask_about_demo_corpus,
                inputs=["params:demo_corpus", "params:seed"],
                outputs="raw_questions",
                name="ask_about_demo_corpus",
            ),
            Node(box_demo_corpus, inputs=["params:demo_corpus", "params:seed"], outputs="raw_boxes", name="box_demo_corpus"),
        ]
    )
