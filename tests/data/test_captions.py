"""Media and captions as training data: the join, what is left out, and captions tokenised where they are read."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.data.captions import PAD_TO, Captions, captioned_media
from umt_pipeline.data.mapped import write_mapped
from umt_pipeline.models.tokenizer import save_tokenizer, train_wordpiece

VIDEOS = pd.DataFrame(
    [
        ("a", "train", "video", "films", "1a"),
        ("still", "train", "image", "stills", "2b"),
        ("b", "train", "video", "films", "3c"),
        ("c", "train", "video", "films", "4d"),
        ("d", "train", "video", "clips", "5e"),
        ("copy", "train", "image", "more", "2b"),
        ("x", "test", "video", "films", "6f"),
    ],
    columns=["video_id", "split", "media", "corpus", "sha256"],
).assign(path=lambda table: table["video_id"] + ".mp4", num_frames=8, height=32, width=32)
VIDEOS["sha256"] = VIDEOS["sha256"] * 32
CAPTIONS = pd.DataFrame(
    [
        (0, "a", "a red ring"),
        (1, "b", "one blue star that is far away, further than all the others are"),
        (2, "a", "A ring, red!"),
        (3, "c", "..."),
        (4, "d", "green squares"),
        (5, "still", "a picture"),
        (6, "d", " - "),
        (7, "copy", "the picture again"),
        (8, "x", "not for training"),
        (9, "d", "some green squares"),
    ],
    columns=["caption_id", "video_id", "caption"],
)


def build(folder: Path, max_length: int = 16, clean: bool = True) -> Captions:
    samples, texts = captioned_media(VIDEOS, CAPTIONS, clean=clean)
    write_mapped(folder / "samples.arrow", samples)
    write_mapped(folder / "captions.arrow", texts)
    save_tokenizer(train_wordpiece(CAPTIONS["caption"], 120, clean=clean), folder / "tokenizer")
    return Captions(folder / "samples.arrow", folder / "captions.arrow", folder / "tokenizer", max_length, clean)


def test_the_join_keeps_usable_captions_and_media_corpus_after_corpus(caplog: pytest.LogCaptureFixture) -> None:
    samples, texts = captioned_media(VIDEOS, CAPTIONS)
    assert samples["video_id"].tolist() == ["copy", "still", "d", "a", "b"], "images, then videos, by corpus; c has no words"
    own = [
        texts["caption"][row.first_caption : row.first_caption + row.captions].tolist() for row in samples.itertuples()
    ]
    assert own == [
        ["the picture again"],
        ["a picture"],
        ["green squares", "some green squares"],
        ["a red ring", "A ring, red!"],
        [CAPTIONS["caption"][1]],
    ]
    assert "2 of 9 captions have no word in them" in caplog.text
    ids = samples.set_index("video_id")["media_id"]
    assert ids["still"] == ids["copy"], "the same picture in two corpora is one medium"
    assert ids.nunique() == 4


def test_without_cleaning_punctuation_is_a_caption_too() -> None:
    samples, _ = captioned_media(VIDEOS, CAPTIONS, clean=False)
    assert "c" in samples["video_id"].tolist()


def test_a_corpus_of_weight_zero_is_left_out() -> None:
    samples, texts = captioned_media(VIDEOS, CAPTIONS, weights={"films": 0.0, "more": 2.0})
    assert samples["video_id"].tolist() == ["copy", "still", "d"]
    assert len(texts) == 4


def test_corpora_that_cannot_be_trained_on_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"names filmz, but in table videos split 'train' has clips, films, more, stills"):
        captioned_media(VIDEOS, CAPTIONS, weights={"filmz": 1.0})
    without = CAPTIONS[CAPTIONS["video_id"] != "d"]
    with pytest.raises(ConfigError, match=r"none of the 1 media of clips has a caption .* stage2\.corpora: {clips: 0}"):
        captioned_media(VIDEOS, without)
    assert "clips" not in captioned_media(VIDEOS, without, weights={"clips": 0.0})[0]["corpus"].tolist()
    with pytest.raises(ConfigError, match=r"none of the media of split 'train' has a caption with words in it \(0 rows"):
        captioned_media(VIDEOS, CAPTIONS[:0])


def test_corpora_are_runs_of_samples_with_weights(tmp_path: Path) -> None:
    corpora = build(tmp_path).corpora({"stills": 0.5}, group_by_media=True)
    assert [(corpus.name, corpus.size, corpus.weight, corpus.group) for corpus in corpora] == [
        ("more (image)", 1, 1.0, "image"),
        ("stills (image)", 1, 0.5, "image"),
        ("clips (video)", 1, 1.0, "video"),
        ("films (video)", 2, 1.0, "video"),
    ]


def test_two_different_captions_are_drawn_where_there_are_two(tmp_path: Path) -> None:
    captions = build(tmp_path)
    drawn = {index: [captions.draw(index, number, 2).tolist() for number in range(20)] for index in (2, 4)}
    assert all(sorted(pair) == [2, 3] for pair in drawn[2])
    assert {tuple(pair) for pair in drawn[2]} == {(2, 3), (3, 2)}
    assert all(pair == [6, 6] for pair in drawn[4]), "it has one"
    assert drawn[2] == [captions.draw(2, number, 2).tolist() for number in range(20)]


def test_captions_are_padded_to_the_longest_and_cut_at_the_limit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    captions = pickle.loads(pickle.dumps(build(tmp_path, max_length=12)))
    ids, mask = captions.encode(np.array([1, 3]))
    assert ids.shape == mask.shape == (2, PAD_TO)
    assert captions.encode(np.array([6]))[0].shape == (1, 12)
    captions.warn_of_cuts()
    assert "1 of 7 captions looked at fill stage2.text.max_length (12 tokens)" in caplog.text


def test_cleaning_can_be_switched_off(tmp_path: Path) -> None:
    for clean, tokens in ((True, "[CLS] a ring red [SEP]"), (False, "[CLS] a ring, red! [SEP]")):
        captions = build(tmp_path, clean=clean)
        sample = captions.samples.row(3)
        assert sample["video_id"] == "a"
        ids, mask = captions.encode(np.array([sample["first_caption"] + 1]))
        assert captions.tokenizer.decode(ids[mask]) == tokens
