"""Where teachers that are trained already come from, written as a teacher folder.

These are models of open_clip and timm by tag, hub id or local file, and the one that comes with the demo world.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import open_clip
import timm
import torch
from open_clip.factory import load_state_dict as load_open_clip_state
from safetensors import SafetensorError
from timm.models import load_state_dict as load_timm_state
from timm.models import save_for_hf

from umt_pipeline.core.errors import CheckpointError, ConfigError
from umt_pipeline.core.files import sha256_file
from umt_pipeline.demo_world import teacher as demo_teacher
from umt_pipeline.models.teacher import CLIP_CONFIG_FILE, CLIP_WEIGHTS_FILE, TRAIN_SMALL, save_open_clip

OPEN_CLIP_PREFIX = "open_clip:"
TIMM_PREFIX = "timm:"
HUB_PREFIX = "hf-hub:"
FOLDER_PREFIX = "local-dir:"
# Every source that `fetch_teacher` takes.
SOURCES = (
    f"{OPEN_CLIP_PREFIX}<model>/<pretrained tag or weights file>",
    f"{OPEN_CLIP_PREFIX}{HUB_PREFIX}<organisation>/<name>",
    f"{OPEN_CLIP_PREFIX}{FOLDER_PREFIX}<folder>",
    f"{TIMM_PREFIX}<model>",
    f"{TIMM_PREFIX}<model>/<weights file>",
    demo_teacher.SOURCE,
)

# What the two libraries, the hub's client and the file readers raise for a wrong file, name or network.
_LOADING_ERRORS = (RuntimeError, OSError, ValueError, KeyError, AttributeError, EOFError, UnpicklingError, SafetensorError)


def check_source(source: str) -> None:
    """Refuse a source that cannot be fetched, as far as that shows without network and without reading weights.

    Raises:
        ConfigError: the source names no known model, tag, file or folder.
    """
    if source == demo_teacher.SOURCE:
        return
    name = source.removeprefix(OPEN_CLIP_PREFIX)
    if source.startswith(TIMM_PREFIX):
        _timm_model(source)
    elif not source.startswith(OPEN_CLIP_PREFIX):
        raise ConfigError(f"teacher.source: expected {TRAIN_SMALL!r} or one of {', '.join(SOURCES)}, found {source!r}")
    elif name.startswith(FOLDER_PREFIX):
        local = Path(name.removeprefix(FOLDER_PREFIX))
        if not (local / CLIP_CONFIG_FILE).is_file():
            raise ConfigError(f"teacher.source {source!r}: expected a folder with {CLIP_CONFIG_FILE}, found none in {local}")
    elif not name.startswith(HUB_PREFIX):
        _open_clip_model(source, name)


def fetch_teacher(source: str, folder: Path) -> None:
    """Write a trained model into ``folder``, as :func:`umt_pipeline.models.teacher.load_teacher` reads it.

    Args:
        source: one of :data:`SOURCES`.
        folder: an existing, empty folder.

    Raises:
        ConfigError: see :func:`check_source`.
        CheckpointError: the weights cannot be fetched or do not fit the model.
    """
    check_source(source)
    name = source.removeprefix(OPEN_CLIP_PREFIX)
    if source == demo_teacher.SOURCE:
        _check_demo(source)
        _fetch_open_clip_repository(source, f"{FOLDER_PREFIX}{demo_teacher.FOLDER}", folder)
    elif source.startswith(TIMM_PREFIX):
        _fetch_timm(source, folder)
    elif name.startswith((HUB_PREFIX, FOLDER_PREFIX)):
        _fetch_open_clip_repository(source, name, folder)
    else:
        _fetch_open_clip_model(source, name, folder)


def _check_demo(source: str) -> None:
    weights = demo_teacher.FOLDER / CLIP_WEIGHTS_FILE
    if not weights.is_file():
        raise CheckpointError(f"teacher.source {source!r}: expected {weights}, found nothing. Install the package again")
    if (found := sha256_file(weights)) != demo_teacher.SHA256:
        raise CheckpointError(
            f"teacher.source {source!r}: expected weights of SHA-256 {demo_teacher.SHA256}, found {found} in {weights}. Take "
            "the file from git again; after `make teacher`, write the new hash into umt_pipeline/demo_world/teacher.py"
        )


def _fetch_open_clip_repository(source: str, name: str, folder: Path) -> None:
    """Fetch a model whose configuration lies beside its weights: a hub repository or a local folder."""
    try:
        model_config = open_clip.get_model_config(name)
        # Without this flag, a repository without weights gives a random model.
        model = open_clip.create_model(name, require_pretrained=True)
        tokenizer = open_clip.get_tokenizer(name)
    except _LOADING_ERRORS as error:
        raise _cannot_load(source, error) from error
    save_open_clip(model, model_config, tokenizer, folder)


def _open_clip_model(source: str, name: str) -> tuple[dict[str, Any], list[str], bool]:
    """Return the configuration of a model that open_clip knows by name, its tags, and whether weights come from a file."""
    model_name, _, pretrained = name.partition("/")
    model_config = open_clip.get_model_config(model_name)
    if model_config is None:
        raise ConfigError(f"teacher.source {source!r}: open_clip knows no model {model_name!r}"
                          f"{_similar(model_name, open_clip.list_models())}")  # fmt: skip
    tags = open_clip.list_pretrained_tags_by_model(model_name)
    from_file = pretrained not in tags
    if from_file and not Path(pretrained).is_file():
        raise ConfigError(
            f"teacher.source {source!r}: {pretrained!r} is neither a file nor a pretrained tag of {model_name} "
            f"(expected one of {', '.join(tags) or 'no tags'}, or the path of a weights file)"
        )
    return model_config, tags, from_file


def _fetch_open_clip_model(source: str, name: str, folder: Path) -> None:
    """Fetch a model that open_clip knows by name, with weights of a tag or from a file."""
    model_config, tags, from_file = _open_clip_model(source, name)
    model_name, _, pretrained = name.partition("/")
    tag_configs = [open_clip.get_pretrained_cfg(model_name, tag) for tag in (tags if from_file else [pretrained])]
    if not from_file:
        # Weights trained with OpenAI's quick GELU are also listed under the plain model's name, which has the exact GELU.
        model_config["quick_gelu"] = bool(tag_configs[0].get("quick_gelu", False))
    try:
        model = open_clip.create_model(
            model_name,
            pretrained=pretrained,
            force_quick_gelu=model_config.get("quick_gelu", False),
            force_preprocess_cfg=_statistics_of(tag_configs),
            require_pretrained=True,
        )
        tokenizer = open_clip.get_tokenizer(model_name)
        table = getattr(model.visual, "positional_embedding", None)
        if from_file and table is not None and Path(pretrained).suffix not in (".npz", ".npy"):
            found = load_open_clip_state(pretrained).get("visual.positional_embedding")
            _check_positions(source, "visual.positional_embedding", found, table, 0)
    except _LOADING_ERRORS as error:
        raise _cannot_load(source, error) from error
    save_open_clip(model, model_config, tokenizer, folder)


def _timm_model(source: str) -> tuple[str, str]:
    """Return the name of a timm model, with its tag, and the weights file, which may be empty."""
    name, _, file = source.removeprefix(TIMM_PREFIX).partition("/")
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        similar = _similar(architecture, timm.list_models())
        raise ConfigError(f"teacher.source {source!r}: timm knows no model {architecture!r}{similar}")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise ConfigError(f"teacher.source {source!r}: expected a tag of {architecture} ({', '.join(tags)}), found {tag!r}")
    if not file and not tags:
        raise ConfigError(
            f"teacher.source {source!r}: timm has no published weights of {architecture}: name a file, "
            f"{TIMM_PREFIX}{architecture}/<weights file>"
        )
    if file and not Path(file).is_file():
        raise ConfigError(f"teacher.source {source!r}: expected a weights file, found none at {file!r}")
    return name, file


def _fetch_timm(source: str, folder: Path) -> None:
    """Fetch a model of timm, with published weights or from a file; its classifier is left out."""
    name, file = _timm_model(source)
    try:
        state = load_timm_state(file) if file else {}
        table, changes = state.get("pos_embed"), _classes_of(state)  # the loader below rewrites the state
        overlay = {"state_dict": state, "custom_load": False, **changes} if file else None
        model: Any = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **changes)
        # Some files hold positions of prefix tokens that timm's model does without.
        prefix = getattr(model, "num_prefix_tokens", 0)
        _check_positions(source, "pos_embed", table, getattr(model, "pos_embed", None), prefix)
    except _LOADING_ERRORS as error:
        raise _cannot_load(source, error) from error
    model.reset_classifier(0)
    save_for_hf(model, str(folder), safe_serialization=True)


def _statistics_of(tag_configs: list[dict[str, Any]]) -> dict[str, Any]:
    # A weights file says nothing of the input it was trained on; open_clip would take OpenAI's statistics for any model.
    found = {(tuple(config["mean"]), tuple(config["std"])) for config in tag_configs if config}
    mean, std = found.pop() if len(found) == 1 else (None, None)
    return {} if mean is None else {"mean": mean, "std": std}


def _classes_of(state: dict[str, Any]) -> dict[str, Any]:
    # The classifier is left out afterwards, but timm checks that nothing else is missing only if it fits. Files of other
    # layouts, without this key, are rewritten by timm and bring what the model's published weights bring.
    if "patch_embed.proj.weight" not in state:
        return {}
    return {"num_classes": len(state["head.weight"]) if "head.weight" in state else 0}


def _check_positions(
    source: str, name: str, found: torch.Tensor | None, expected: torch.Tensor | None, slack: int
) -> None:
    # Both libraries interpolate a table of another length without a word; every other wrong shape is refused by them.
    if found is None or expected is None or abs(found.shape[-2] - expected.shape[-2]) <= slack:
        return
    raise CheckpointError(
        f"teacher.source {source!r}: {name} of the model is {tuple(expected.shape)}, the weights file has "
        f"{tuple(found.shape)}: it was trained at another input size. Name the model of that size"
    )


def _cannot_load(source: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"teacher.source {source!r} cannot be loaded: {error}. Weights and tokenizers that are not on this machine are "
        "fetched from the Hugging Face hub: without a network, name a weights file or a local folder instead"
    )


def _similar(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.5) or known[:5]
    return f" (it knows {', '.join(near)}, …)"
