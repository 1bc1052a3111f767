"""Commands of documents that need a project, tables or weights: each is run, word by word, where those lie that it names."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from tests.documented import assigned
from tests.registry.finished import record
from tests.stage_stand_in import Place
from tests.tables.reading import put
from tests.tables.test_retrieval import MSRVTT
from tests.video_files import write_video
from umt_pipeline.commands.main import app
from umt_pipeline.core.files import write_json
from umt_pipeline.exchange.convert import export_checkpoint
from umt_pipeline.models.folders import save_model
from umt_pipeline.models.student import KIND, StudentConfig, load_student, untrained_student
from umt_pipeline.models.vit import ViTConfig

CLIPS = 12


def umt(words: Sequence[str]) -> str:
    """Run a command of ours in the current folder, and return what it says."""
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, f"umt {shlex.join(words)}: {done.output}\n{done.exception}"
    return done.output


def run(place: Place, words: Sequence[str], names: Mapping[str, str]) -> str:
    """Run a command of a document in a project, with what its names stand for, and return what it says."""
    program, *arguments = (names.get(word, word) for word in words)
    return umt(arguments) if program == "umt" else place.call(program, *arguments)


@pytest.mark.slow
def test_a_corpus_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a folder to an experiment and a remote; its stages are stand-ins."""
    place = Place(tmp_path)
    place.call("git", "add", "-A")
    place.call("git", "commit", "-q", "-m", "what a clone holds")
    monkeypatch.chdir(place.project)
    files = [f"{number:02d}.mp4" for number in range(CLIPS)]
    for number, name in enumerate(files):
        write_video(tmp_path / "media" / name, num_frames=6, first_number=8 * number)
    pd.DataFrame({"video": files, "caption": [f"clip {name}" for name in files]}).to_csv("captions.csv", index=False)
    pd.DataFrame({"video": files, "label": ["ring", "star"] * (CLIPS // 2)}).to_csv("labels.csv", index=False)
    names = {"/path/to/folder": str(tmp_path / "media"), "/path/to/storage": str(tmp_path / "storage")}

    said: dict[str, str] = {}
    for words in assigned("test_a_corpus_of_ones_own", "own_videos.md"):
        line = shlex.join(words)
        said[line] = run(place, words, names)
        if line == "dvc repro corpora/mine/dvc.yaml":
            assert bool(place.ran()) == ("umt update mine" not in said), "nothing has changed since the first time"
    begun = {shlex.join(words) for words in assigned("test_a_corpus_of_ones_own", "README.md")}
    assert begun <= said.keys(), "the first steps are the same there"

    assert "ingestion" in said["umt status mine"]
    assert "up to date" in said["umt status mine"]
    assert "0 new, 0 changed, 0 moved, 0 vanished" in said["umt update mine"]
    assert "stage1.train.lr=0.0007" in said["umt experiments mine"]
    assert any((tmp_path / "storage").iterdir())
    assert (place.project / "data/mine/01_raw/teacher.dvc").is_file()
    (dry,) = assigned("test_a_corpus_of_ones_own", "experiments.md")
    assert "no stage would run" in umt(dry[1:])


def test_public_tables_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kept = [video for video in MSRVTT["videos"] if video["split"] != "test"]  # type: ignore[index]
    tested = [video for video in MSRVTT["videos"] if video["split"] == "test"]  # type: ignore[index]
    sentences = MSRVTT["sentences"]
    put(
        tmp_path,
        {
            "train_val_videodatainfo.json": {**MSRVTT, "videos": kept, "sentences": sentences[:3]},  # type: ignore[index]
            "test_videodatainfo.json": {**MSRVTT, "videos": tested, "sentences": sentences[3:]},  # type: ignore[index]
            "MSRVTT_train.9k.csv": "video_id\nvideo0\nvideo6513\n",
            "MSRVTT_JSFUSION_test.csv": 'key,vid_key,video_id,sentence\nret0,msr7010,video7010,"a woman, singing"\n',
        },
    )
    listed, read = assigned("test_public_tables_are_read", "own_videos.md")
    assert "msrvtt" in umt(listed[1:])
    umt(read[1:])
    videos = pd.read_csv(tmp_path / "tables" / "msrvtt" / "videos.csv")
    assert videos["split"].tolist() == ["train", "train", "test"]


def test_a_published_file_comes_in_and_goes_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    vision = ViTConfig(image_size=224, patch_size=16, frames=8, dim=64, depth=2, heads=1)
    student = untrained_student(StudentConfig(vision=vision, align_layers=1, target_dim=16), 0)
    stage1 = tmp_path / "data" / "06_models" / "stage1"
    stage1.mkdir(parents=True)
    save_model(stage1, student, student.config, KIND)
    export_checkpoint(stage1, tmp_path / "b16_ptk710_f8_res224.pth")
    for words in assigned("test_a_published_file_comes_in_and_goes_out", "checkpoints.md"):
        umt(words[1:])
    imported = load_student(tmp_path / "models" / "b16").state_dict()
    assert all(torch.equal(tensor, imported[name]) for name, tensor in student.state_dict().items())
    assert (tmp_path / "stage1.pth").is_file()


def test_records_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, value in (("data/07_model_output", 50.0), ("other", 60.0)):
        (tmp_path / folder).mkdir(parents=True)
        found = record("classification/test/stage2", "a" * 64, value, "stage2").model_dump(mode="json")
        write_json(tmp_path / folder / "evaluation_records.json", [found])
    (compare,) = assigned("test_records_are_compared", "evaluation.md")
    assert "+10.0" in umt(compare[1:])
