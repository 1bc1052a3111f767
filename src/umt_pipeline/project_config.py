"""The project's configuration as a Kedro run sees it, for commands that run no pipeline."""

from __future__ import annotations

from functools import cached_property
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
    # Where runs are tracked, which Kedro knows nothing of.
    "config_patterns": {"mlflow": ["mlflow*"]},
    # Kedro offers oc.env for credentials only; mlflow.yml needs it for MLFLOW_TRACKING_URI.
    "custom_resolvers": {"oc.env": oc.env},
}

# Blocks of parameters that an overlay replaces as a whole: their keys are names of its own, beside which others mean nothing.
REPLACED = frozenset({"gate"})
RECIPES_FOLDER = "recipes"
SECTIONS = ("parents", "about", "parameters", "catalog", "globals")


class ProjectConfigLoader(OmegaConfigLoader):
    """Kedro's loader, and recipes: an overlay whose ``globals.yml`` names some stands on top of them.

        recipes: [umt_b16]

    A recipe is a file of ``conf/recipes`` with sections ``parameters``, ``catalog`` and ``globals``, which hold what files of
    these names do in an overlay, ``parents``: other recipes that it stands on, and ``about``: what ``umt recipes`` says of it.
    Later recipes go over earlier ones key by key, the overlay's own files over all of them, and what results over ``base``; but
    blocks of :data:`REPLACED` are the overlay's alone where it has them.

    Raises:
        ConfigError: there is no such overlay; those that there are are named.
    """

    def __init__(self, conf_source: str | Path, env: str | None = None, *args: Any, **kwargs: Any) -> None:
        conf = Path(conf_source)
        # Kedro takes an overlay that is not there for one without files, until something cannot be configured.
        if env is not None and conf.is_dir() and (env == RECIPES_FOLDER or not (conf / env).is_dir()):
            raise ConfigError(f"--env: expected a folder of {conf}, one of {', '.join(environments(conf))}; found '{env}'.")
        super().__init__(conf_source, env, *args, **kwargs)

    def __getitem__(self, key: str) -> dict[str, Any]:
        """Return what the files of this kind say, merged and resolved."""
        # Kedro registers ${globals:...} for the whole process, so that the loader made last would answer for all.
        self._register_globals_resolver()
        found: dict[str, Any] = super().__getitem__(key)
        return found

    @cached_property
    def recipes(self) -> dict[Path, dict[str, Any]]:
        """The recipes that the overlay stands on, by file, parents first; interpolations are not resolved.

        Raises:
            ConfigError: there is no such recipe, or it has a section that means nothing.
        """
        conf = Path(self.conf_source)
        own = conf / (self.env or self.default_run_env) / "globals.yml"
        return _read_recipes(conf / RECIPES_FOLDER, _names(own, _plain(own), "recipes"), own, set()) if own.is_file() else {}

    def own_parameters(self) -> dict[str, set[str]]:
        """Return the blocks of parameters that the overlay or its recipes name, each with its keys."""
        overlay = Path(self.conf_source) / (self.env or self.default_run_env)
        layers = [content.get("parameters", {}) for content in self.recipes.values()]
        layers += map(_plain, sorted(overlay.rglob("parameters*.y*ml")))
        found: dict[str, set[str]] = {}
        for blocks in layers:
            for block, values in blocks.items():
                found.setdefault(str(block), set()).update(map(str, values if isinstance(values, dict) else ()))
        return found

    def _read_raw_config(self, key: str) -> tuple[Any, Any, str, str, set[Path]]:
        # Kedro 1.7 reads an overlay's files here, before it merges them in the order of this mapping.
        base, overlay, base_path, overlay_path, processed = super()._read_raw_config(key)
        recipes = {path: OmegaConf.create(content[key]) for path, content in self.recipes.items() if content.get(key)}
        overlay = {**recipes, **overlay}
        replaced = REPLACED & {str(block) for content in overlay.values() for block in content} if key == "parameters" else ()
        if replaced:
            base = {
                path: OmegaConf.masked_copy(content, [str(block) for block in content if block not in replaced])
                for path, content in base.items()
            }
        return base, overlay, base_path, overlay_path, processed


def environments(conf: Path) -> list[str]:
    """Return the names of the overlays that there are; hidden folders are none, such as one that is being written."""
    folders = (path.name for path in conf.iterdir() if path.is_dir())
    return sorted(name for name in folders if name != RECIPES_FOLDER and not name.startswith("."))


def _read_recipes(folder: Path, names: list[str], named_by: Path, seen: set[Path]) -> dict[Path, dict[str, Any]]:
    found: dict[Path, dict[str, Any]] = {}
    for name in names:
        path = folder / f"{name}.yml"
        if not path.is_file():
            known = sorted(file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.yml"))
            raise ConfigError(f"{named_by}: expected names of recipes, of {', '.join(known)}; found '{name}'.")
        if path in seen:
            continue
        seen.add(path)
        content = _plain(path)
        if strange := sorted(set(content) - set(SECTIONS)):
            raise ConfigError(f"{path}: expected sections of {', '.join(SECTIONS)}; found '{strange[0]}'.")
        found |= _read_recipes(folder, _names(path, content, "parents"), path, seen)
        found[path] = content
    return found


def _plain(path: Path) -> dict[str, Any]:
    content: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    return content


def _names(path: Path, content: dict[str, Any], key: str) -> list[str]:
    names = content.get(key, [])
    if not isinstance(names, list):
        raise ConfigError(f"{path}: {key}: expected a list of names of recipes, found {names!r}.")
    return [str(name) for name in names]


def config_loader(project: Path, env: str | None, overrides: str = "") -> ProjectConfigLoader:
    """Return the loader that ``kedro run --env ENV --params OVERRIDES`` would use.

    Args:
        project: the project's folder.
        env: overlay over ``conf/base``, a folder of ``conf``; None: ``local``, which git ignores and is empty at first.
        overrides: ``name.name=value`` pairs with commas between them.

    Raises:
        ConfigError: there is no such overlay, or a pair is malformed.
    """
    params = parsed_overrides(overrides)
    return ProjectConfigLoader(conf_source=str(project / "conf"), env=env, runtime_params=params, **LOADER_ARGS)


def parsed_overrides(overrides: str) -> dict[str, Any]:
    """Return what ``--params`` says as nested mappings.

    Raises:
        ConfigError: a pair is malformed.
    """
    pairs = overrides.split(",") if overrides else []
    for pair in pairs:
        if not pair.partition("=")[0].strip() or "=" not in pair:
            raise ConfigError(f"--params: expected name=value with commas between pairs, found '{pair}'.")
    params: Any = OmegaConf.to_container(OmegaConf.from_dotlist(pairs))
    return dict(params)


def catalog_path(project: Path, loader: ProjectConfigLoader, dataset: str) -> Path:
    """Return where the catalog keeps a dataset, of its own entry or by a factory.

    Raises:
        ConfigError: the catalog has neither.
    """
    entry = catalog_resolver(loader).resolve_pattern(dataset)
    if "filepath" not in entry:
        raise ConfigError(f"catalog: expected an entry or a factory for '{dataset}', found none")
    return project / str(entry["filepath"])


def catalog_resolver(loader: ProjectConfigLoader) -> CatalogConfigResolver:
    """Return what finds the entry of a dataset, or the factory that makes it; of one in memory it is Kedro's default."""
    # Named, or Kedro warns that it takes it.
    in_memory = {"{default}": {"type": "kedro.io.MemoryDataset"}}
    return CatalogConfigResolver(config=_read_once(loader, "catalog"), default_runtime_patterns=in_memory)


def _read_once(loader: ProjectConfigLoader, kind: str) -> dict[str, Any]:
    if kind not in loader.data:
        # Else Kedro reads all files again each time.
        loader[kind] = loader[kind]
    found: dict[str, Any] = loader[kind]
    return found


def typed_parameters(loader: ProjectConfigLoader, name: str, model: type[_Config]) -> _Config:
    """Return a block of the parameters, checked.

    Args:
        loader: from :func:`config_loader`.
        name: of the block, which is the name of its pipeline.
        model: what it must be.

    Raises:
        ConfigError: the block is missing, or a key is missing, unknown or wrong; each is named.
    """
    parameters = _read_once(loader, "parameters")
    if name not in parameters:
        raise ConfigError(f"parameters: expected a block '{name}', found {', '.join(parameters)}.")
    return validated(model, parameters[name], name)


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
