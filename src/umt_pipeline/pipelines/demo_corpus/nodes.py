"""Nodes that draw the demo corpus, ask about it and box its objects."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd

from umt_pipeline.demo_world.boxes import make_boxes
from umt_pipeline.demo_world.corpus import DemoCorpusConfig, write_corpus
from umt_pipeline.demo_world.questions import make_questions


def make_demo_corpus(
    params: DemoCorpusConfig, seed: int, workspace: Path
) -> tuple[Path, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Draw the demo corpus.

    Args:
        params: how much to draw.
        seed: decides every clip and caption.
        workspace: folder for unfinished work; the catalog moves the finished files into place.

    Returns:
        The folder of video and image files, and the raw tables of videos, captions and labels.
    """
    media = workspace / "demo_corpus"
    shutil.rmtree(media, ignore_errors=True)
    media.mkdir(parents=True)
    return media, *write_corpus(params, seed, media)


def ask_about_demo_corpus(params: DemoCorpusConfig, seed: int) -> pd.DataFrame:
    """Ask about every clip of the demo corpus; see :func:`umt_pipeline.demo_world.questions.make_questions`."""
    return make_questions(params, seed)


def box_demo_corpus(params: DemoCorpusConfig, seed: int) -> pd.DataFrame:
    """Box the object of every clip of the demo corpus; see :func:`umt_pipeline.demo_world.boxes.make_boxes`."""
    return make_boxes(params, seed)
