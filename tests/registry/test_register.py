"""Finished models become versions, each once, and only what is locked and committed becomes the challenger."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

import umt_pipeline as umt
from tests.registry.finished import FinishedProject
from umt_pipeline.commands.register import registered_lines
from umt_pipeline.core.errors import ConfigError, RegistryError
from umt_pipeline.core.files import read_json, sha256_file, sha256_folder, write_json
from umt_pipeline.core.locking import only_writer
from umt_pipeline.registry.names import CHALLENGER, CHAMPION
from umt_pipeline.registry.reading import connect, fetch, version_at
from umt_pipeline.registry.register import Registered, register

KINDS = ("stage1", "stage2", "retrieval")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> FinishedProject:
    finished = FinishedProject(tmp_path_factory.mktemp("finished") / "project", KINDS)
    # An empty database, which takes seconds to make.
    MlflowClient(f"sqlite:///{finished.folder}/mlflow.db").search_experiments()
    return finished


@pytest.fixture
def made(template: FinishedProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FinishedProject:
    """A finished project with a database of its own, as the current folder."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    finished = template.copied(tmp_path / "project")
    monkeypatch.chdir(finished.folder)
    connect(finished.folder)
    return finished


def paths(made: FinishedProject) -> list[str]:
    clips = made.tables.videos[made.tables.videos["media"] == "video"]
    return [str(made.tables.media_root / path) for path in clips["path"]]


def test_a_finished_model_is_registered_with_all_that_it_was_judged_by(made: FinishedProject, tmp_path: Path) -> None:
    done = register(made.folder, None)
    assert done == [Registered(f"demo_{kind}", "1", True) for kind in KINDS]
    version = version_at("demo_stage2", CHALLENGER)
    assert version is not None
    folder = made.model("stage2")
    tags = dict(version.tags)
    assert tags.pop("dvc.md5").endswith(".dir")
    assert tags == {
        "umt.corpus": "demo",
        "umt.kind": "stage2",
        "dvc.stage": "stage2",
        "git.commit": made.head(),
        "sha256.model": sha256_file(folder / "model.safetensors"),
        "sha256.folder": sha256_folder(folder),
        "sha256.evidence": sha256_file(made.path("evaluation_evidence")),
        "sha256.records": sha256_file(made.made("evaluation_judged") / "records.json"),
        "sha256.serving": tags["sha256.serving"],
    }
    assert version.metrics == {"evaluation/test/stage2/top1": 50.0}, "its own numbers, and no others"
    assert sha256_folder(fetch(version, "model", tmp_path / "out")) == sha256_folder(folder)
    assert fetch(version, "evidence", tmp_path / "out").read_bytes() == made.path("evaluation_evidence").read_bytes()
    assert fetch(version, "records", tmp_path / "out") == tmp_path / "out" / "records.json"
    runs = MlflowClient().search_runs([MlflowClient().get_experiment_by_name("umt_pipeline").experiment_id])  # type: ignore[union-attr]
    assert [(run.info.run_name, run.info.status) for run in runs] == [("register", "FINISHED")]
    assert runs[0].data.tags["dvc.stage"] == "stage1, stage2, retrieval"


@pytest.mark.slow
def test_the_second_time_nothing_is_new(made: FinishedProject) -> None:
    assert [one.fresh for one in register(made.folder, "demo", ["stage2"])] == [True]
    assert registered_lines(made.folder, None, ["stage2"], dry_run=True) == [
        "demo_stage2 version 1: there already, would be challenger"
    ]
    before = MlflowClient().search_runs(["1"])
    assert register(made.folder, "demo", ["stage2"]) == [Registered("demo_stage2", "1", False)]
    assert len(MlflowClient().search_runs(["1"])) == len(before), "nothing was sent"
    assert registered_lines(made.folder, None, None, dry_run=True)[0] == "demo_stage1: a new version would be registered"


@pytest.mark.slow
def test_another_model_is_another_version_and_the_first_one_comes_back(made: FinishedProject) -> None:
    register(made.folder, None, ["stage2"])
    MlflowClient().set_registered_model_alias("demo_stage2", CHAMPION, "1")
    lock = (made.folder / "dvc.lock").read_text(encoding="utf-8")
    made.train("stage2", seed=5)
    made.judge("evaluation", 60.0)
    made.repro()
    made.commit()
    assert register(made.folder, None, ["stage2"]) == [Registered("demo_stage2", "2", True)]
    champion = version_at("demo_stage2", CHAMPION)
    assert champion is not None
    assert champion.version == "1"
    made.train("stage2")
    made.judge("evaluation")
    made.repro()
    assert (made.folder / "dvc.lock").read_text(encoding="utf-8") == lock
    made.commit()
    assert register(made.folder, None, ["stage2"]) == [Registered("demo_stage2", "1", False)]
    challenger = version_at("demo_stage2", CHALLENGER)
    assert challenger is not None
    assert challenger.version == "1", "the challenger is what is locked now"


def break_weights(made: FinishedProject) -> None:
    folder = made.model("stage2")
    content = (folder / "config.json").read_text(encoding="utf-8")
    (folder / "config.json").unlink()  # DVC's file may be a link into its cache
    (folder / "config.json").write_text(content + " ", encoding="utf-8")


def change_parameter(made: FinishedProject) -> None:
    file = made.folder / "conf/base/parameters_stage1.yml"
    file.write_text(file.read_text(encoding="utf-8").replace("stage1:", "stage1:\n  lr_of_nobody: 1", 1), encoding="utf-8")


def change_upstream(made: FinishedProject) -> None:
    made.train("stage1", seed=9)


def judge_another(made: FinishedProject) -> None:
    made.judge("evaluation", 70.0)


def do_not_commit(made: FinishedProject) -> None:
    made.train("stage2", seed=4)
    made.judge("evaluation")
    made.repro()


def commit_the_lock_alone(made: FinishedProject) -> None:
    do_not_commit(made)
    made.commit("dvc.lock")


def lose_the_model(made: FinishedProject) -> None:
    shutil.rmtree(made.model("stage2"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (break_weights, r"demo_stage2: stage2: data/06_models/stage2, a result, was changed by hand"),
        (change_parameter, r"demo_stage2: stage1: parameter stage1.lr_of_nobody: nothing became 1"),
        (change_upstream, r"demo_stage2: stage1: made/stage1 changed"),
        (
            judge_another,
            r"demo_stage2: evaluation: made/evaluation_judged/records\.json changed",
        ),
        (do_not_commit, r"demo_stage2: not committed: .*dvc\.lock.*git commit"),
        (commit_the_lock_alone, r"demo_stage2: not committed: made/.*git commit"),
        (lose_the_model, r"demo_stage2: not here: .*stage2\. Fetch it: dvc pull"),
    ],
)
def test_what_is_not_locked_and_committed_is_refused(made: FinishedProject, spoil: Any, message: str) -> None:
    spoil(made)
    with pytest.raises(ConfigError, match=message):
        register(made.folder, None, ["stage2"])
    assert version_at("demo_stage2", CHALLENGER) is None


def test_a_clone_with_the_model_alone_will_do(made: FinishedProject) -> None:
    """What the model was made of may be elsewhere, as long as it is locked."""
    shutil.rmtree(made.model("stage1"))
    made.path("videos").unlink()
    assert register(made.folder, None, ["stage2"]) == [Registered("demo_stage2", "1", True)]


def test_records_of_other_weights_are_refused(made: FinishedProject) -> None:
    made.train("stage2", seed=3)
    made.repro()
    made.commit()
    with pytest.raises(RegistryError, match=r"expected numbers of the weights in .*stage2, found none among 3 records"):
        register(made.folder, None)
    assert not MlflowClient().search_registered_models()


@pytest.mark.slow
def test_what_was_not_trained_is_left_out(made: FinishedProject, caplog: pytest.LogCaptureFixture) -> None:
    made.train("retrieval")
    shutil.rmtree(made.made("retrieval"))
    made.made("retrieval").mkdir()
    (made.made("retrieval") / "skipped.json").write_text('{"reason": "no captions"}', encoding="utf-8")
    made.repro()
    made.commit()
    assert [one.name for one in register(made.folder, None)] == ["demo_stage1", "demo_stage2"]
    assert "retrieval is left out" in caplog.text
    assert "no captions" in caplog.text
    assert "teacher is left out: no stage of this corpus makes data/06_models/teacher" in caplog.text
    with pytest.raises(ConfigError, match=r"demo_retrieval: .* holds no weights: no captions"):
        register(made.folder, None, ["retrieval"])
    with pytest.raises(ConfigError, match=r"--kind: expected one of teacher, .* found 'stage3'"):
        register(made.folder, None, ["stage3"])


@pytest.mark.slow
def test_a_model_of_which_nothing_was_measured_is_left_out(made: FinishedProject, caplog: pytest.LogCaptureFixture) -> None:
    """As stage 1 of a corpus without labels: the others are registered all the same."""
    file = made.made("evaluation_judged") / "records.json"
    records = [item for item in read_json(file) if not item["task"].endswith("stage1")]
    write_json(file, [*records, {"task": "probe/shape", "note": "there are no labels"}])
    made.repro()
    made.commit()
    assert [one.name for one in register(made.folder, None)] == ["demo_stage2", "demo_retrieval"]
    assert "stage1 is left out: evaluation measured nothing of it" in caplog.text
    with pytest.raises(ConfigError, match="demo_stage1: evaluation measured nothing of it"):
        register(made.folder, None, ["stage1"])


@pytest.mark.parametrize(
    "step",
    [
        pytest.param("log_model_artifacts", marks=pytest.mark.slow),
        pytest.param("log_batch", marks=pytest.mark.slow),
        "create_model_version",
        pytest.param("set_registered_model_alias", marks=pytest.mark.slow),
    ],
)
def test_killed_between_two_steps_a_second_run_finishes(
    made: FinishedProject, monkeypatch: pytest.MonkeyPatch, step: str, tmp_path: Path
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, step, killed)
        with pytest.raises(KeyboardInterrupt):
            register(made.folder, None, ["stage2"])
    assert version_at("demo_stage2", CHALLENGER) is None, "nothing half registered has an alias"
    assert [one.version for one in register(made.folder, None, ["stage2"])] == ["1"]
    version = version_at("demo_stage2", CHALLENGER)
    assert version is not None
    assert version.metrics == {"evaluation/test/stage2/top1": 50.0}
    fetch(version, "model", tmp_path / "out")
    assert len(MlflowClient().search_logged_models(["1"])) == 1
    assert not list((made.folder / "data/.checkpoints/registry").glob(".files-*"))


def artifacts(name: str) -> Path:
    model = MlflowClient().get_logged_model(str(version_at(name, CHALLENGER).model_id))  # type: ignore[union-attr]
    return Path(model.artifact_location.removeprefix("file://")) / "artifacts"


def test_a_corrupted_entry_is_found_and_registering_mends_it(made: FinishedProject, tmp_path: Path) -> None:
    register(made.folder, None, ["stage2"])
    version = version_at("demo_stage2", CHALLENGER)
    assert version is not None
    with (artifacts("demo_stage2") / "evidence.parquet").open("ab") as handle:
        handle.write(b"x")
    with pytest.raises(RegistryError, match=r"evidence\.parquet is not what was registered: expected sha256\.evidence .*"):
        fetch(version, "evidence", tmp_path / "out")
    assert not (tmp_path / "out" / "evidence.parquet").exists()
    shutil.rmtree(artifacts("demo_stage2") / "model")
    with pytest.raises(RegistryError, match=r"model cannot be fetched: .*`umt register --kind stage2` puts the files back"):
        fetch(version, "model", tmp_path / "out")
    assert register(made.folder, None, ["stage2"]) == [Registered("demo_stage2", "1", False)]
    fetch(version, "model", tmp_path / "out")
    fetch(version, "evidence", tmp_path / "out")


def test_missing_tags_and_numbers_are_filled_in(made: FinishedProject) -> None:
    register(made.folder, None, ["stage2"])
    first = made.head()
    client = MlflowClient()
    client.delete_model_version_tag("demo_stage2", "1", "sha256.model")
    client.delete_registered_model_alias("demo_stage2", CHALLENGER)
    (made.folder / "README.md").write_text("more\n", encoding="utf-8")
    made.commit()
    register(made.folder, None, ["stage2"])
    version = version_at("demo_stage2", CHALLENGER)
    assert version is not None
    assert version.tags["sha256.model"] == sha256_file(made.model("stage2") / "model.safetensors")
    assert version.tags["git.commit"] == first, "of its first registration"


def test_other_records_of_the_same_answers_replace_the_old_ones(made: FinishedProject, tmp_path: Path) -> None:
    register(made.folder, None, ["stage2"])
    made.judge("evaluation", 70.0)
    made.repro()
    made.commit()
    assert register(made.folder, None, ["stage2"]) == [Registered("demo_stage2", "1", False)]
    version = version_at("demo_stage2", CHALLENGER)
    assert version is not None
    assert version.metrics == {"evaluation/test/stage2/top1": 70.0}
    assert version.tags["git.commit"] == made.head(), "where these records are"
    fetch(version, "records", tmp_path / "out")


def test_a_model_that_was_deleted_is_registered_anew(made: FinishedProject) -> None:
    register(made.folder, None, ["stage2"])
    client = MlflowClient()
    client.delete_logged_model(str(version_at("demo_stage2", CHALLENGER).model_id))  # type: ignore[union-attr]
    assert register(made.folder, None, ["stage2"]) == [Registered("demo_stage2", "2", True)]


def test_two_registrations_at_once_do_not_mix(made: FinishedProject) -> None:
    with only_writer(made.folder / "data/.checkpoints/registry"), pytest.raises(ConfigError, match="another process"):
        register(made.folder, None, ["stage2"])


def test_without_a_server_the_message_says_what_to_do(made: FinishedProject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryError, match=r"MLflow at http://127\.0\.0\.1:9 says: .*Start the server \(`make mlflow`\)"):
        register(made.folder, None, ["stage2"])


def test_the_registry_is_where_the_runs_are(made: FinishedProject, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of the demo reads conf/local, one of a corpus the corpus' own file."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    own = "server: {{mlflow_tracking_uri: sqlite:///{0}.db}}\ntracking: {{experiment: {{name: {0}}}}}\n"
    for env in ("local", "mine"):
        (made.folder / "conf" / env).mkdir(exist_ok=True)
        (made.folder / "conf" / env / "mlflow.yml").write_text(own.format(env), encoding="utf-8")
    for corpus, env in ((None, "local"), ("mine", "mine")):
        target = connect(made.folder, corpus)
        assert (target.uri, target.experiment) == (f"sqlite:///{made.folder}/{env}.db", env)
        assert mlflow.get_tracking_uri() == target.uri


def test_a_deleted_experiment_is_restored(made: FinishedProject) -> None:
    client = MlflowClient()
    deleted = client.create_experiment("umt_pipeline")
    client.delete_experiment(deleted)
    register(made.folder, None, ["stage2"])
    assert client.get_experiment(deleted).lifecycle_stage == "active"


def test_mlflow_loads_the_champion(made: FinishedProject, monkeypatch: pytest.MonkeyPatch) -> None:
    register(made.folder, None, ["stage2", "retrieval"])
    MlflowClient().set_registered_model_alias("demo_stage2", CHAMPION, "1")
    monkeypatch.chdir(made.folder.parent)  # a database file is found from anywhere
    loaded = mlflow.pyfunc.load_model("models:/demo_stage2@champion", model_config={"precision": "fp32"})
    known = umt.load(made.model("stage2"), "fp32")
    videos, texts = paths(made), ["a disc", "a star that moves"]
    assert loaded.predict(videos)["embedding"].tolist() == known.embed_videos(videos).all().tolist()
    table = pd.DataFrame({"video": videos, "text": texts})
    assert loaded.predict(table[["text"]])["embedding"].tolist() == known.embed_texts(texts).tolist()
    assert loaded.predict(table)["match"].tolist() == known.match(videos, texts).tolist()
    assert loaded.metadata.signature.inputs.input_names() == [0, "video", "text"]
    assert loaded.input_example.columns.tolist() == ["video", "text"]
    files = {path.name for path in artifacts("demo_stage2").parent.rglob("*")}
    assert not [name for name in files if name.endswith(".pkl")], "no pickle"
    requirements = (artifacts("demo_stage2").parent / "requirements.txt").read_text(encoding="utf-8")
    assert "umt_pipeline==" in requirements
    assert "timm==" in requirements


def test_a_corpus_of_ones_own_has_names_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    finished = FinishedProject(tmp_path / "project", ["stage2"], "mine")
    monkeypatch.chdir(finished.folder)
    assert registered_lines(finished.folder, "mine", None, dry_run=False) == ["mine_stage2 version 1: registered, challenger"]
    version = version_at("mine_stage2", CHALLENGER)
    assert version is not None
    assert version.tags["umt.corpus"] == "mine"
    assert version.tags["dvc.stage"] == "corpora/mine/dvc.yaml:stage2"
    (artifacts("mine_stage2") / "records.json").unlink()
    with pytest.raises(RegistryError, match="`umt register mine --kind stage2`"):
        fetch(version, "records", tmp_path / "out")
