"""The project's configuration as a Kedro run sees it, for commands that run no pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from kedro.config import OmegaConfigLoader
from omegaconf import OmegaConf
from omegaconf.resolvers import oc
from pydantic import ValidationError

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import ConfigError

_Config = TypeVar("_Config", bound=Config)

# How Kedro reads the configuration: these are its settings' CONFIG_LOADER_ARGS.
LOADER_ARGS: dict[str, Any] = {
    "base_env": "base",
    "default_run_env": "local",
    # An overlay (`--env NAME`) names only the keys that it changes.
    "merge_strategy": {"parameters": "soft", "globals": "soft", "mlflow": "soft"},
    # Kedro offers oc.env for credentials only; mlflow.yml needs it for MLFLOW_TRACKING_URI.
    "custom_resolvers": {"oc.env": oc.env},
}


def config_loader(project: Path, env: str | None, overrides: str = "") -> OmegaConfigLoader:
    """Return the loader that ``kedro run --env ENV --params OVERRIDES`` would use.

    Args:
        project: the project's folder.
        env: overlay over ``conf/base``, a folder of ``conf``; None: ``local``, which git ignores and is empty at first.
        overrides: ``name.name=value`` pairs with commas between them.

    Raises:
        ConfigError: there is no such overlay, or a pair is malformed.
    """
    conf = project / "conf"
    if env is not None and not (conf / env).is_dir():
        known = sorted(folder.name for folder in conf.iterdir() if folder.is_dir())
        raise ConfigError(f"--env: expected a folder of {conf}, one of {', '.join(known)}; found '{env}'.")
    pairs = overrides.split(",") if overrides else []
    for pair in pairs:
        if not pair.partition("=")[0].strip() or "=" not in pair:
            raise ConfigError(f"--params: expected name=value with commas between pairs, found '{pair}'.")
    params: Any = OmegaConf.to_container(OmegaConf.from_dotlist(pairs))
    return OmegaConfigLoader(conf_source=str(conf), env=env, runtime_params=params, **LOADER_ARGS)


def catalog_path(project: Path, loader: OmegaConfigLoader, dataset: str) -> Path:
    """Return where the catalog keeps a dataset."""
    return project / loader["catalog"][dataset]["filepath"]


def typed_parameters(loader: OmegaConfigLoader, name: str, model: type[_Config]) -> _Config:
    """Return a block of the parameters, checked.

    Args:
        loader: from :func:`config_loader`.
        name: of the block, which is the name of its pipeline.
        model: what it must be.

    Raises:
        ConfigError: the block is missing, or a key is missing, unknown or wrong; each is named.
    """
    parameters: dict[str, Any] = loader["parameters"]
    if name not in parameters:
        raise ConfigError(f"parameters: expected a block '{name}', found {', '.join(parameters)}.")
    return validated(model, parameters[name], name)


def own_parameters(project: Path, env: str) -> dict[str, set[str]]:
    """Return the blocks of parameters that an overlay names itself, each with its keys.

    Args:
        project: the project's folder.
        env: the overlay, a folder of ``conf``.
    """
    found: dict[str, set[str]] = {}
    for file in sorted((project / "conf" / env).rglob("parameters*.y*ml")):
        blocks: Any = OmegaConf.to_container(OmegaConf.load(file))
        for block, values in blocks.items():
            found.setdefault(str(block), set()).update(map(str, values if isinstance(values, dict) else ()))
    return found


def validated(model: type[_Config], values: dict[str, Any], where: str) -> _Config:
    """Return ``values`` as ``model``.

    Args:
        model: what they must be.
        values: by name.
        where: put before the names in messages.

    Raises:
        ConfigError: one line for each value that is not as expected.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [
            f"{'.'.join([where, *map(str, problem['loc'])])}: {problem['msg']}, found {problem['input']!r}"
            for problem in error.errors()
        ]
        raise ConfigError("\n".join(lines)) from error
