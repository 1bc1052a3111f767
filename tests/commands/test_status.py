"""`umt status` tells what is in the folder and not in the tables, however often it is asked."""

from __future__ import annotations

import os
from pathlib import Path

from umt_pipeline.commands.corpus import Corpus
from umt_pipeline.commands.init import Given, init_corpus
from umt_pipeline.commands.status import folder_news


def test_a_changed_file_of_the_same_size_is_told_again(dvc_project: Path, media: Path) -> None:
    init_corpus(dvc_project, "mine", Given(media))
    corpus = Corpus(dvc_project, "mine")
    assert folder_news(corpus) == []
    (media / "a.mp4").write_text("b.mp4")
    os.utime(media / "a.mp4", (1, 1))
    told = folder_news(corpus)
    assert told[0] == f"1 files in {media.resolve()} are changed: a.mp4"
    assert folder_news(corpus) == told, "though its new hash is known by now"
