"""Published files to model folders and back, through the commands."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from tests.golden_files import golden_meta, golden_tensors
from umt_pipeline.commands import main as cli
from umt_pipeline.core.errors import CheckpointError, ConfigError
from umt_pipeline.exchange.convert import export_checkpoint, import_checkpoint
from umt_pipeline.exchange.sizes import Asked
from umt_pipeline.models.alignment import aligned_layers
from umt_pipeline.models.checkpoints import fuse_biases, student_to_published
from umt_pipeline.models.encoder import load_encoder
from umt_pipeline.models.folders import load_weights, save_model
from umt_pipeline.models.student import KIND, Student, StudentConfig, load_student, untrained_student
from umt_pipeline.models.text import TextConfig
from umt_pipeline.models.tokenizer import save_tokenizer, train_wordpiece
from umt_pipeline.models.video_text import VideoTextConfig, VideoTextModel, load_video_text, save_video_text
from umt_pipeline.models.vision import load_vision
from umt_pipeline.models.vit import ViTConfig, position_table
from umt_pipeline.tasks.classification.model import Classifier, ClassifierConfig, load_classifier, save_classifier
from umt_pipeline.tasks.detection.model import Detector, DetectorConfig, load_detector, save_detector
from umt_pipeline.tasks.question_answering.model import load_question_answering

STUDENT = golden_tensors("stage1", "student/")
CLASSIFIER = golden_tensors("stage1", "classifier/")
VIDEO_TEXT = golden_tensors("stage2", "model/")
SIZES = golden_meta("stage1")["config"]
TEXT_SIZES = golden_meta("stage2")["config"]
ASKED = Asked(image_size=SIZES["img"], frames=SIZES["frames"], heads=SIZES["heads"])
# Of 8 frames and 224 pixels, as every published classifier.
WHOLE = Asked(heads=SIZES["heads"])


def umt(*arguments: object) -> str:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output or result.exception
    return result.output


def write(folder: Path, state: dict[str, Tensor], name: str = "published.pth") -> Path:
    if name.endswith(".safetensors"):
        save_file(state, folder / name)
    else:
        torch.save(state, folder / name)
    return folder / name


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key], tensor), key


def exported(folder: Path, tmp_path: Path, *options: str, name: str = "out.pth") -> dict[str, Tensor]:
    umt("export-checkpoint", folder, "--out", tmp_path / name, *options)
    if name.endswith(".safetensors"):
        return load_file(tmp_path / name)
    state: dict[str, Tensor] = torch.load(tmp_path / name, weights_only=True)
    return state


@pytest.mark.parametrize("name", ["out.pth", "out.safetensors"])
def test_a_student_comes_in_and_goes_out_bit_by_bit(tmp_path: Path, name: str) -> None:
    file, folder = write(tmp_path, STUDENT, f"in{Path(name).suffix}"), tmp_path / "models" / "student"
    output = umt(
        "import-checkpoint", file, "--kind", "student", "--out", folder,
        "--heads", SIZES["heads"], "--frames", SIZES["frames"], "--image-size", SIZES["img"],
    )  # fmt: skip
    assert f"{len(STUDENT)} keys matched, 0 missing, 0 unexpected, 0 mis-shaped" in output
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    config = load_student(folder).config
    assert (config.align_layers, config.target_dim) == (SIZES["K"], SIZES["out"])
    assert (config.vision.dim, config.vision.depth, config.vision.heads) == (SIZES["dim"], SIZES["depth"], SIZES["heads"])
    assert (config.vision.patch_size, config.vision.mlp_ratio) == (16, 4.0)
    assert_equal(exported(folder, tmp_path, name=name), STUDENT)


def test_a_student_with_layers_at_an_interval_is_imported_as_told(tmp_path: Path) -> None:
    file, folder = write(tmp_path, STUDENT), tmp_path / "student"
    import_checkpoint(file, "student", folder, replace(ASKED, align_interval=2.0))
    found = load_student(folder)
    assert found.layers == aligned_layers(SIZES["depth"], SIZES["K"], 2.0)
    assert f"the last {SIZES['K']}, 2 apart" in (folder / "README.md").read_text()
    with pytest.raises(CheckpointError, match=f"cannot align {SIZES['K']} of {SIZES['depth']} blocks"):
        import_checkpoint(file, "student", tmp_path / "other", replace(ASKED, align_interval=float(SIZES["depth"])))


def test_biases_go_out_fused(tmp_path: Path) -> None:
    file, folder = write(tmp_path, fuse_biases(STUDENT)), tmp_path / "student"
    import_checkpoint(file, "student", folder, ASKED)
    assert_equal(exported(folder, tmp_path), STUDENT)
    assert_equal(exported(folder, tmp_path, "--fused-biases", "--force"), fuse_biases(STUDENT))


@pytest.mark.parametrize(("frames", "size"), [(8, 224), (16, 224), (8, 384)])
def test_classifiers_of_every_clip_size(tmp_path: Path, frames: int, size: int) -> None:
    """Files of 16 frames or 384 pixels hold their interpolated position table; the number of frames is read from it."""
    table = position_table(SIZES["dim"], 8, 14, frames, size // 16).unsqueeze(0)
    state = CLASSIFIER | ({} if (frames, size) == (8, 224) else {"pos_embed": table})
    folder = tmp_path / "classifier"
    report = import_checkpoint(
        write(tmp_path, state), "classifier", folder, Asked(image_size=size, heads=SIZES["heads"])
    )
    assert report.unexpected == (("encoder.pos_embed",) if "pos_embed" in state else ())
    model = load_classifier(folder)
    assert model.config.classes == SIZES["classes"]
    assert (model.config.vision.frames, model.config.vision.image_size) == (frames, size)
    assert torch.equal(model.encoder.positions_AD, table[0])
    assert_equal(exported(folder, tmp_path), state)


def test_a_detector_comes_in_starts_others_and_goes_out(tmp_path: Path) -> None:
    """A published file of action detection has a final norm where a classifier's has ``fc_norm``."""
    state = {key.replace("fc_norm.", "norm."): tensor for key, tensor in CLASSIFIER.items()}
    folder = tmp_path / "detector"
    output = umt(
        "import-checkpoint", write(tmp_path, {"model": state}), "--kind", "detector", "--out", folder, "--heads", SIZES["heads"]
    )
    assert f"{len(state)} keys matched, 0 missing, 0 unexpected, 0 mis-shaped" in output
    model = load_detector(folder)
    assert model.config.classes == SIZES["classes"]
    assert torch.equal(model.encoder.norm.weight, state["norm.weight"])
    assert_equal(load_vision(folder)[0].state_dict(), model.encoder.state_dict())
    assert_equal(exported(folder, tmp_path), state)
    with pytest.raises(CheckpointError, match=r"2 missing \(encoder\.norm\.bias, encoder\.norm\.weight\); 2 unexpected"):
        import_checkpoint(write(tmp_path, CLASSIFIER), "detector", tmp_path / "out", WHOLE)


def test_a_position_table_of_another_image_size(tmp_path: Path) -> None:
    state = CLASSIFIER | {"pos_embed": position_table(SIZES["dim"], 8, 14, 8, 24).unsqueeze(0)}
    file = write(tmp_path, state)
    with pytest.raises(CheckpointError, match=r"4608 positions.* no multiple of the 196 patches .* 224 pixels"):
        import_checkpoint(file, "classifier", tmp_path / "out", WHOLE)
    with pytest.raises(CheckpointError, match=r"pos_embed is \(1, 4608, 48\), expected \(1, 1568, 48\)"):
        import_checkpoint(file, "classifier", tmp_path / "out", Asked(frames=8, heads=SIZES["heads"]))
    assert not (tmp_path / "out").exists()


def test_an_encoder_is_taken_out_of_a_student(tmp_path: Path) -> None:
    output = umt(
        "import-checkpoint", write(tmp_path, STUDENT), "--kind", "encoder", "--out", tmp_path / "encoder",
        "--heads", SIZES["heads"],
    )  # fmt: skip
    heads = sum(key.startswith("clip_decoder.") for key in STUDENT)
    assert f"{len(STUDENT) - heads} keys matched, 0 missing, {heads} unexpected" in output
    assert "other:clip_decoder.0.head.bias" in output
    encoder = load_encoder(tmp_path / "encoder")
    assert (encoder.config.frames, encoder.config.image_size) == (8, 224)
    expected = {key.removeprefix("encoder."): tensor for key, tensor in STUDENT.items() if key.startswith("encoder.")}
    assert_equal(exported(tmp_path / "encoder", tmp_path), expected)


def test_an_encoder_of_a_classifier_needs_leave(tmp_path: Path) -> None:
    """It has no final norm, and a head that is no part of it."""
    file = write(tmp_path, CLASSIFIER)
    with pytest.raises(CheckpointError, match=r"2 missing \(norm\.bias, norm\.weight\); 4 unexpected \(fc_norm\.bias"):
        import_checkpoint(file, "encoder", tmp_path / "encoder", WHOLE)
    output = umt(
        "import-checkpoint", file, "--kind", "encoder", "--out", tmp_path / "encoder", "--heads", SIZES["heads"],
        "--allow-missing", "norm.*", "--allow-unexpected", "fc_norm.*", "--allow-unexpected", "head.*",
    )  # fmt: skip
    assert "allowed: 2 missing (norm.bias, norm.weight)" in output
    assert "norm.bias, norm.weight" in (tmp_path / "encoder" / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_wordpiece(["a disc goes left", "a star goes up"], TEXT_SIZES["vocab"]), folder)
    return folder


def test_a_video_text_model_comes_in_and_goes_out(tmp_path: Path, tokenizer: Path) -> None:
    file, folder = write(tmp_path, VIDEO_TEXT | {"clip_teacher.proj": torch.zeros(2, 2)}), tmp_path / "model"
    output = umt(
        "import-checkpoint", file, "--kind", "video-text", "--out", folder, "--tokenizer", tokenizer,
        "--heads", TEXT_SIZES["heads"], "--text-heads", TEXT_SIZES["txh"],
        "--frames", TEXT_SIZES["frames"], "--image-size", TEXT_SIZES["img"],
    )  # fmt: skip
    assert "allowed: 1 unexpected (clip_teacher.proj)" in output
    assert "left out: the frozen teacher (clip_teacher.*, tensors: 1)" in output
    model, _ = load_video_text(folder)
    text = model.config.text
    assert (text.layers, text.fusion_layer, text.dim) == (TEXT_SIZES["txl"], TEXT_SIZES["fuse"], TEXT_SIZES["txt"])
    assert (text.vocab_size, model.config.embed_dim) == (TEXT_SIZES["vocab"], TEXT_SIZES["embed"])
    state = {key: tensor for key, tensor in VIDEO_TEXT.items() if not key.endswith("position_ids")}
    for name in ("out.pth", "out.safetensors"):
        assert_equal(exported(folder, tmp_path, name=name), state)


def retrieval_state() -> dict[str, Tensor]:
    """The same weights as a fine-tuned retrieval file holds them: no language head, no alignment heads, no ``bert.``."""
    kept = {key: t for key, t in VIDEO_TEXT.items() if ".cls." not in key and "clip_decoder" not in key}
    names = {key: key.replace("text_encoder.bert.", "text_encoder.") for key in kept if not key.endswith("position_ids")}
    return {name: VIDEO_TEXT[key] for key, name in names.items()}


def answering_state() -> dict[str, Tensor]:
    """A question-answering file made of the same weights, by the published rules of starting one."""
    first = TEXT_SIZES["fuse"]
    state = {key: t for key, t in retrieval_state().items() if key.startswith(("vision_encoder.encoder.", "text_encoder."))}
    for key, tensor in VIDEO_TEXT.items():
        name = key.replace("text_encoder.", "text_decoder.", 1)
        if not key.startswith("text_encoder.") or key.endswith("position_ids"):
            continue
        if ".layer." in key:
            index = int(key.split(".layer.")[1].split(".")[0])
            if index < first:
                continue
            name = name.replace(f".layer.{index}.", f".layer.{index - first}.")
            if ".crossattention.self.key.weight" in key or ".crossattention.self.value.weight" in key:
                tensor = torch.arange(float(TEXT_SIZES["txt"] ** 2)).reshape(TEXT_SIZES["txt"], -1)
        state[name] = tensor.clone()
    return state


@pytest.mark.parametrize(
    ("kind", "make", "load"),
    [
        ("video-text", retrieval_state, load_video_text),
        ("question-answering", answering_state, load_question_answering),
    ],
)
def test_fine_tuned_files_come_in_and_go_out_bit_by_bit(
    tmp_path: Path, tokenizer: Path, kind: str, make: Any, load: Any
) -> None:
    state = make()
    for name in ("in.pth", "in.safetensors"):
        output = umt(
            "import-checkpoint", write(tmp_path, state, name), "--kind", kind, "--out", tmp_path / "model",
            "--tokenizer", tokenizer, "--heads", TEXT_SIZES["heads"], "--text-heads", TEXT_SIZES["txh"],
            "--frames", TEXT_SIZES["frames"], "--image-size", TEXT_SIZES["img"], "--force",
        )  # fmt: skip
        assert f"{len(state) - (2 if kind == 'question-answering' else 0)} keys matched" in output, "all but two tied copies"
        assert ("masked-language head has random weights" in output) == (kind == "video-text")
        model, _ = load(tmp_path / "model")
        assert (model.config.text.fusion_layer, model.config.text.layers) == (TEXT_SIZES["fuse"], TEXT_SIZES["txl"])
        assert_equal(exported(tmp_path / "model", tmp_path, "--force", name=name.replace("in", "out")), state)


def test_a_trainers_file_needs_its_configuration_class_allowed_by_name(tmp_path: Path, tokenizer: Path) -> None:
    """The class is one that is not there any more when the file is read."""
    module = types.ModuleType("lab.settings")
    module.Bag = type("Bag", (dict,), {"__module__": "lab.settings"})  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "lab", types.ModuleType("lab"))
        patch.setitem(sys.modules, "lab.settings", module)
        torch.save({"model": answering_state(), "config": module.Bag(lr=1.0), "epoch": 3}, tmp_path / "ckpt_best.pth")
    options = [
        "import-checkpoint", tmp_path / "ckpt_best.pth", "--kind", "question-answering", "--out", tmp_path / "model",
        "--tokenizer", tokenizer, "--heads", TEXT_SIZES["heads"], "--text-heads", TEXT_SIZES["txh"],
    ]  # fmt: skip
    refused = CliRunner().invoke(cli.app, [str(option) for option in options])
    assert "go on with --allow-class lab.settings.Bag" in str(refused.exception)
    umt(*options, "--allow-class", "lab.settings.Bag")
    assert_equal(exported(tmp_path / "model", tmp_path), answering_state())


@pytest.mark.parametrize(
    ("kind", "make", "load", "frames"),
    [
        ("video-text", lambda: VIDEO_TEXT, load_video_text, 4),
        ("video-text", retrieval_state, load_video_text, 12),
        ("question-answering", answering_state, load_question_answering, 12),
    ],
)
def test_frames_are_the_published_ones_of_each_stage_2_file(
    tmp_path: Path, tokenizer: Path, kind: str, make: Any, load: Any, frames: int
) -> None:
    """Such files hold no position table; 12 frames go on where 8 and 4 end."""
    asked = Asked(heads=TEXT_SIZES["heads"], text_heads=TEXT_SIZES["txh"])
    file = write(tmp_path, make() | {"clip_teacher.ln_pre.bias": torch.zeros(2)})
    report = import_checkpoint(file, kind, tmp_path / "model", asked, tokenizer=str(tokenizer))
    assert "left out: the frozen teacher" in "".join(report.notes)
    vision = load(tmp_path / "model")[0].vision
    assert (vision.config.frames, vision.config.image_size) == (frames, 224)
    assert torch.equal(vision.positions_AD, position_table(TEXT_SIZES["dim"], frames, 14, frames, 14))
    assert torch.equal(vision.positions_AD[:784], position_table(TEXT_SIZES["dim"], 8, 14, 8, 14)[:784])


def test_a_file_of_the_other_kind_says_what_it_is(tmp_path: Path, tokenizer: Path) -> None:
    """A question-answering file was once published under the name of a pre-trained one."""
    asked = Asked(heads=TEXT_SIZES["heads"], text_heads=TEXT_SIZES["txh"])
    answering, retrieval = write(tmp_path, answering_state(), "b16.pth"), write(tmp_path, retrieval_state(), "ret.pth")
    with pytest.raises(CheckpointError, match=r"b16\.pth holds an answer decoder .* import it as question-answering"):
        import_checkpoint(answering, "video-text", tmp_path / "x", asked, tokenizer=str(tokenizer))
    with pytest.raises(CheckpointError, match=r"ret\.pth holds no answer decoder .* import it as video-text"):
        import_checkpoint(retrieval, "question-answering", tmp_path / "x", asked, tokenizer=str(tokenizer))
    long, first = answering_state(), "text_decoder.bert.encoder.layer.0."
    long |= {key.replace("layer.0.", "layer.9."): tensor for key, tensor in long.items() if key.startswith(first)}
    with pytest.raises(CheckpointError, match=r"the answer decoder has \d+ layers; expected \d+, as many as"):
        import_checkpoint(write(tmp_path, long), "question-answering", tmp_path / "x", asked, tokenizer=str(tokenizer))


def test_a_student_of_ours_goes_out_and_comes_back(tmp_path: Path) -> None:
    vision = ViTConfig(image_size=32, patch_size=8, frames=2, dim=24, depth=3, heads=2, mlp_ratio=2.0, drop_path=0.1)
    student = untrained_student(StudentConfig(vision=vision, align_layers=2, target_dim=6), seed=5)
    (tmp_path / "stage1").mkdir()
    save_model(tmp_path / "stage1", student, student.config, KIND, {"steps": 3})
    umt("export-checkpoint", tmp_path / "stage1", "--out", tmp_path / "stage1.pth")
    import_checkpoint(tmp_path / "stage1.pth", "student", tmp_path / "again", Asked(image_size=32, frames=2, heads=2))
    again = load_student(tmp_path / "again")
    assert again.config.vision == vision.model_copy(update={"drop_path": 0.0})
    assert_equal(again.state_dict(), student.state_dict())
    # The published layout has places for exactly these names.
    assert set(student_to_published(student.state_dict(), 8)) == set(exported(tmp_path / "again", tmp_path))


def test_refusals_of_files(tmp_path: Path) -> None:
    file, out = write(tmp_path, STUDENT), tmp_path / "out"
    kinds = "student, encoder, classifier, detector, video-text, question-answering"
    with pytest.raises(ConfigError, match=f"kind is 'teacher', expected one of {kinds}"):
        import_checkpoint(file, "teacher", out, ASKED)
    with pytest.raises(CheckpointError, match="48 wide, which is not a multiple of 64: say how many heads"):
        import_checkpoint(file, "student", out, Asked())
    with pytest.raises(CheckpointError, match="dim 48 is not a multiple of heads 5"):
        import_checkpoint(file, "student", out, Asked(heads=5))
    with pytest.raises(CheckpointError, match=r"expected head\.weight with 2 axes.* no such key among"):
        import_checkpoint(file, "classifier", out, ASKED)
    with pytest.raises(CheckpointError, match=r"expected vision\.patch_embed\.weight with 2 axes"):
        import_checkpoint(file, "video-text", out, ASKED, tokenizer="any")
    with pytest.raises(ConfigError, match="video-text and question-answering need a tokenizer"):
        import_checkpoint(file, "video-text", out, ASKED)
    with pytest.raises(CheckpointError, match=r"published\.pth holds no alignment heads"):
        import_checkpoint(write(tmp_path, CLASSIFIER), "student", out, ASKED)
    two_frames = STUDENT | {"encoder.patch_embed.proj.weight": torch.zeros(48, 3, 2, 16, 16)}
    with pytest.raises(CheckpointError, match="tubelets of one frame"):
        import_checkpoint(write(tmp_path, two_frames), "student", out, ASKED)
    wide = STUDENT | {"clip_decoder.1.head.weight": torch.zeros(SIZES["out"], 64)}
    with pytest.raises(CheckpointError, match=r"heads\.heads\.1\.proj\.weight is \(32, 64\), expected \(32, 48\)"):
        import_checkpoint(write(tmp_path, wide), "student", out, ASKED)
    assert not out.exists()


def test_nothing_is_replaced_by_accident(tmp_path: Path) -> None:
    file, out = write(tmp_path, STUDENT), tmp_path / "out"
    import_checkpoint(file, "student", out, ASKED)
    with pytest.raises(ConfigError, match="out exists already"):
        import_checkpoint(file, "student", out, ASKED)
    import_checkpoint(file, "encoder", out, ASKED, force=True)
    load_encoder(out)
    with pytest.raises(ConfigError, match=r"holds published\.pth itself"):
        import_checkpoint(file, "student", tmp_path, ASKED, force=True)
    (tmp_path / "notes").mkdir()
    with pytest.raises(ConfigError, match="is no model folder, so --force does not replace it"):
        import_checkpoint(file, "student", tmp_path / "notes", ASKED, force=True)
    with pytest.raises(ConfigError, match=r"published\.pth exists already"):
        export_checkpoint(out, file)
    with pytest.raises(ConfigError, match=r"ends in \.pth, \.pt or \.safetensors, found '\.bin'"):
        export_checkpoint(out, tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match=r"no model folder: config\.json is missing"):
        export_checkpoint(tmp_path / "notes", tmp_path / "x.pth")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "out", "published.pth"]


def test_a_folder_of_another_kind_is_not_exported(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"kind": "other", "model": {}, "extra": {}}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="kind 'other'; published names are known for umt_student"):
        export_checkpoint(tmp_path, tmp_path / "x.pth")


@pytest.mark.parametrize("change", [{"pool": "attention"}, {"fuse_positions": True}, {"fuse_pooled": True}])
def test_a_model_that_the_published_layout_cannot_hold_is_not_exported(tmp_path: Path, change: dict[str, Any]) -> None:
    words = train_wordpiece(["a red circle"], vocab_size=40)
    vision = ViTConfig(image_size=16, patch_size=8, frames=2, dim=8, depth=1, heads=2)
    text = TextConfig(
        vocab_size=len(words), dim=8, layers=2, fusion_layer=1, heads=2, mlp_dim=8, max_positions=8, vision_dim=8, dropout=0.0
    )
    config = VideoTextConfig.model_validate({"vision": vision, "text": text, "embed_dim": 4, **change})
    save_video_text(tmp_path, VideoTextModel(config), words)
    published = "only a model with pool: mean, fuse_positions: false, fuse_pooled: false can be exported"
    with pytest.raises(CheckpointError, match=published):
        export_checkpoint(tmp_path, tmp_path / "x.pth")


def test_an_imported_encoder_starts_a_classifier(tmp_path: Path) -> None:
    import_checkpoint(write(tmp_path, STUDENT), "encoder", tmp_path / "encoder", WHOLE)
    import_checkpoint(write(tmp_path, CLASSIFIER), "classifier", tmp_path / "classifier", WHOLE)
    encoder, config = load_encoder(tmp_path / "encoder"), load_classifier(tmp_path / "classifier").config
    model = Classifier.create(config, encoder)
    assert torch.equal(model.encoder.blocks[3].attn.qkv.weight, encoder.blocks[3].attn.qkv.weight)
    student = Student(StudentConfig(vision=config.vision, align_layers=1, target_dim=4))
    load_weights(student.encoder, encoder.state_dict(), source="encoder")


def test_a_classifier_or_detector_with_an_attention_pool_is_not_exported(tmp_path: Path) -> None:
    vision = ViTConfig(image_size=16, patch_size=8, frames=2, dim=8, depth=1, heads=2)
    one, other = tmp_path / "classifier", tmp_path / "detector"
    one.mkdir()
    other.mkdir()
    save_classifier(one, Classifier(ClassifierConfig(vision=vision, classes=3, pool="attention")), ("a", "b", "c"))
    save_detector(other, Detector(DetectorConfig(vision=vision, classes=3, pool="attention")), ("a", "b", "c"))
    for folder in (one, other):
        with pytest.raises(CheckpointError, match=r"pool: attention, which the published model does not know"):
            export_checkpoint(folder, tmp_path / "out.pth")
