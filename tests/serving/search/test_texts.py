"""What of a typed text can be read."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation.tiny import VISION, make_folders, make_tables
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.evaluation.encoders import TeacherEncoder, view_of
from umt_pipeline.models.teacher import TeacherConfig, load_teacher
from umt_pipeline.serving.embedder import Embedder
from umt_pipeline.serving.search.texts import clean_text, reading_of


@given(text=st.text(alphabet=st.characters(), max_size=40))
def test_cleaned_texts_can_be_written_and_are_cleaned_once(text: str) -> None:
    try:
        cleaned = clean_text(text)
    except ConfigError:
        assert all(letter.isspace() or unicodedata.category(letter) in ("Cc", "Cs") for letter in text)
        return
    kept = [letter for letter in text if unicodedata.category(letter) not in ("Cc", "Cs") and not letter.isspace()]
    assert list(cleaned.replace(" ", "")) == kept
    assert cleaned.encode()
    assert clean_text(cleaned) == cleaned == " ".join(cleaned.split())


def test_joined_letters_of_other_scripts_stay() -> None:
    """The joiners are no control characters: without them the words are others."""
    assert clean_text("می\N{ZERO WIDTH NON-JOINER}خواهم") == "می\N{ZERO WIDTH NON-JOINER}خواهم"


def test_a_clip_reads_any_script_up_to_its_length(tmp_path: Path) -> None:
    tables = make_tables(tmp_path / "media", ("train", "test"))
    folders = make_folders(tmp_path, tables)
    teacher = load_teacher(folders.teacher, TeacherConfig(layers=1), VISION.grid, text=True)
    embedder = Embedder("teacher", TeacherEncoder(teacher, view_of(VISION)), "teacher_cls")
    assert reading_of(embedder, "красный").notes == []
    assert reading_of(embedder, "a star").tokens == 2
    assert reading_of(embedder, "star " * 50).notes == ["the model reads the first 14 of the text's 50 tokens"]
