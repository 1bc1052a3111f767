"""Where runs are tracked: what ``conf/base/mlflow.yml`` says."""

from __future__ import annotations

from pathlib import Path

from kedro.config import AbstractConfigLoader, MissingConfigException

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import ConfigError

DEMO = "demo"
_SQLITE = "sqlite:///"


class Experiment(Config):
    """The experiment of MLflow that runs go to; made if it is new."""

    name: str


class Tracking(Config):
    """What is tracked.

    Attributes:
        experiment: where runs go to.
        system_metrics: load of processors, memory, disks, network and GPUs while a run lasts; where psutil is installed.
    """

    experiment: Experiment
    system_metrics: bool


class Server(Config):
    """MLflow's server.

    Attributes:
        mlflow_tracking_uri: its address, or a database such as ``sqlite:///mlflow.db``, which is in the project then.
    """

    mlflow_tracking_uri: str


class Target(Config):
    """The content of ``mlflow.yml``."""

    server: Server
    tracking: Tracking

    @property
    def uri(self) -> str:
        """The address of MLflow's server or database."""
        return self.server.mlflow_tracking_uri

    @property
    def experiment(self) -> str:
        """The name of the experiment."""
        return self.tracking.experiment.name


def project_target(loader: AbstractConfigLoader, project: Path) -> Target:
    """Return the content of ``mlflow.yml``, checked.

    Args:
        loader: of the project's configuration.
        project: the project's folder, in which a relative SQLite file lies.

    Raises:
        ConfigError: there is no such file, or a key is missing, unknown or wrong.
    """
    try:
        target = Target.model_validate(loader["mlflow"])
    except MissingConfigException as error:
        raise ConfigError("mlflow.yml: expected it in conf/base, found none. It says where runs are tracked") from error
    except ValueError as error:
        raise ConfigError(f"mlflow.yml: {error}") from error
    file = target.uri.removeprefix(_SQLITE)
    if not target.uri.startswith(_SQLITE) or file.startswith("/"):
        return target
    # Else it would be another database in each folder that a command is given in.
    return target.model_copy(update={"server": Server(mlflow_tracking_uri=f"{_SQLITE}{project.resolve() / file}")})


def track_command(corpus: str) -> str:
    """Return the command that tells MLflow what it missed of a corpus."""
    return "umt track" if corpus == DEMO else f"umt track {corpus}"


def corpus_of(env: str | None) -> str:
    """Return the name of the corpus that an environment is of: the demo's without one, else its own."""
    return DEMO if env in (None, "base", "local") else str(env)
