"""The project's configuration as a Kedro run sees it, for commands that run no pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from kedro.config import OmegaConfigLoader
from kedro.io import CatalogConfigResolver
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


RECIPES_FOLDER = "recipes"


class ProjectConfigLoader(OmegaConfigLoader):
    """Kedro's loader, and recipes: an overlay whose ``globals.yml`` names some stands on top of them.

        recipes: [kinetics, kinetics_b16]

    A recipe is a file of ``conf/recipes`` with sections ``parameters``, ``catalog`` and ``globals``, and ``parents``: other
    recipes that it stands on. Later ones go over earlier ones key by key, the overlay's own files over all of them.
    """

    def _read_raw_config(self, key: str) -> tuple[Any, Any, str, str, set[Path]]:
        # Kedro 1.7 reads an overlay's files here, before it merges them in the order of this mapping.
        base, overlay, base_path, overlay_path, processed = super()._read_raw_config(key)
        recipes = {
            path: OmegaConf.create(content[key])
            for path, content in read_recipes(Path(self.conf_source), self.env).items()
            if content.get(key)
        }
        return base, {**recipes, **overlay}, base_path, overlay_path, processed


def read_recipes(conf: Path, env: str | None) -> dict[Path, dict[str, Any]]:
    """Return the recipes that an overlay stands on, by file, parents first.

    Raises:
        ConfigError: there is no such recipe, or it has a section that means nothing.
    """
    found: dict[Path, dict[str, Any]] = {}
    own = conf / (env or "") / "globals.yml"
    if env is None or not own.is_file():
        return found

    def add(name: str, named_by: Path) -> None:
        path = conf / RECIPES_FOLDER / f"{name}.yml"
        if path in found:
            return
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in path.parent.glob("*.yml")))
            raise ConfigError(f"{named_by}: expected names of {path.parent}, among them {known}; found '{name}'.")
        content: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        if strange := sorted(set(content) - {"parents", "about", "parameters", "catalog", "globals"}):
            raise ConfigError(f"{path}: expected parents, about, parameters, catalog or globals; found '{strange[0]}'.")
        for parent in content.get("parents", ()):
            add(parent, path)
        found[path] = content

    listed: Any = OmegaConf.to_container(OmegaConf.load(own), resolve=False)
    for name in listed.get("recipes", ()):
        add(name, own)
    return found


def config_loader(project: Path, env: str | None, overrides: str = "") -> ProjectConfigLoader:
    """Return the loader that ``kedro run --env ENV --params OVERRIDES`` would use.

    Args:
        project: the project's folder.
        env: overlay over ``conf/base``, a folder of ``conf``; None: ``local``, which git ignores and is empty at first.
        overrides: ``name.name=value`` pairs with commas between them.

    Raises:
        ConfigError: there is no such overlay, or a pair is malformed.
    """
    conf = project / "conf"
    require_environment(project, env)
    pairs = overrides.split(",") if overrides else []
    for pair in pairs:
        if not pair.partition("=")[0].strip() or "=" not in pair:
            raise ConfigError(f"--params: expected name=value with commas between pairs, found '{pair}'.")
    params: Any = OmegaConf.to_container(OmegaConf.from_dotlist(pairs))
    return ProjectConfigLoader(conf_source=str(conf), env=env, runtime_params=params, **LOADER_ARGS)


def require_environment(project: Path, env: str | None) -> None:
    """Refuse an overlay that is not there.

    Raises:
        ConfigError: there is no such folder; those that there are are named.
    """
    conf = project / "conf"
    if env is not None and (env == RECIPES_FOLDER or not (conf / env).is_dir()):
        known = sorted(folder.name for folder in conf.iterdir() if folder.is_dir() and folder.name != RECIPES_FOLDER)
        raise ConfigError(f"--env: expected a folder of {conf}, one of {', '.join(known)}; found '{env}'.")


def catalog_path(project: Path, loader: ProjectConfigLoader, dataset: str) -> Path:
    """Return where the catalog keeps a dataset, of its own entry or by a factory.

    Raises:
        ConfigError: the catalog has neither.
    """
    entry = CatalogConfigResolver(config=loader["catalog"]).resolve_pattern(dataset)
    if "filepath" not in entry:
        raise ConfigError(f"catalog: expected an entry or a factory for '{dataset}', found none")
    return project / str(entry["filepath"])


def typed_parameters(loader: ProjectConfigLoader, name: str, model: type[_Config]) -> _Config:
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
    """Return the blocks of parameters that an overlay or its recipes name, each with its keys.

    Args:
        project: the project's folder.
        env: the overlay, a folder of ``conf``.
    """
    conf = project / "conf"
    layers: list[Any] = [content.get("parameters", {}) for content in read_recipes(conf, env).values()]
    layers += [OmegaConf.to_container(OmegaConf.load(file)) for file in sorted((conf / env).rglob("parameters*.y*ml"))]
    found: dict[str, set[str]] = {}
    for blocks in layers:
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
