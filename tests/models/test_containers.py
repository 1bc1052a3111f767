"""Checkpoint files are read as plain weights: objects of unknown classes are named and refused, and nothing is executed."""

from __future__ import annotations

import argparse
import os
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from umt_pipeline.core.errors import CheckpointError, ConfigError
from umt_pipeline.models.containers import read_checkpoint

# The class that trainers of this family keep their configuration in: a dict whose keys are also attributes.
ATTRIBUTE_DICT = """
executed = []

class NAME(dict):
    def __init__(self, items=None, **more):
        executed.append("init")
        super().__init__()
        for key, value in dict(items or {}, **more).items():
            setattr(self, key, value)

    def __setattr__(self, key, value):
        if isinstance(value, dict):
            value = type(self)(value)
        super().__setattr__(key, value)
        super().__setitem__(key, value)

    __setitem__ = __setattr__
"""
# What a hostile file could hold: unpickled as usual, it would call a function of its choice.
HOSTILE = """
executed = []

def strike(*args):
    executed.append(args)
    return {}

class NAME:
    def __reduce__(self):
        return strike, ("now",)
"""


@contextmanager
def module_with(name: str, source: str) -> Iterator[tuple[Any, types.ModuleType]]:
    """A class with the given full name, importable while the context lasts."""
    module_name, class_name = name.rsplit(".", 1)
    parts = module_name.split(".")
    names = [".".join(parts[: index + 1]) for index in range(len(parts))]
    made = {part: types.ModuleType(part) for part in names}
    module = made[module_name]
    exec(source.replace("NAME", class_name), module.__dict__)
    before = {part: sys.modules.get(part) for part in names}
    sys.modules.update(made)
    try:
        yield getattr(module, class_name), module
    finally:
        for part, old in before.items():
            if old is None:
                del sys.modules[part]
            else:
                sys.modules[part] = old


def weights() -> dict[str, Tensor]:
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3, dtype=torch.int64)}


def trainer_file(folder: Path, config: Any, **options: Any) -> Path:
    """What the reference's stage-2 trainer writes after a step."""
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = {
        "model": weights(),
        "optimizer": optimizer.state_dict(),
        "scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0).state_dict(),
        "scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 3},
        "config": config,
        "epoch": 9,
        "global_step": 4321,
    }
    torch.save(content, folder / "ckpt_latest.pth", **options)
    return folder / "ckpt_latest.pth"


def written(folder: Path, name: str, source: str = ATTRIBUTE_DICT, **options: Any) -> Path:
    with module_with(name, source) as (cls, _):
        config = cls({"optimizer": {"lr": 1e-4, "opt_betas": [0.9, 0.999]}, "inputs": {"max_txt_l": {"image": 32}}})
        return trainer_file(folder, config, **options)


def assert_weights(state: dict[str, Tensor]) -> None:
    assert state.keys() == weights().keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in weights().items())


@pytest.mark.parametrize("name", ["utils.easydict.EasyDict", "easydict.EasyDict", "utils.config.Config"])
@pytest.mark.parametrize("new_format", [True, False])
def test_a_trainers_file_is_read_though_its_configuration_class_is_not_there(
    tmp_path: Path, name: str, new_format: bool
) -> None:
    path = written(tmp_path, name, _use_new_zipfile_serialization=new_format)
    assert name.rsplit(".", 1)[0] not in sys.modules
    assert_weights(read_checkpoint(path))


def test_the_real_class_is_neither_imported_nor_called(tmp_path: Path) -> None:
    path = written(tmp_path, "utils.easydict.EasyDict")
    with module_with("utils.easydict.EasyDict", ATTRIBUTE_DICT) as (_, module):
        assert_weights(read_checkpoint(path))
        assert module.executed == []


def test_the_command_line_of_stage_1_is_read(tmp_path: Path) -> None:
    assert_weights(read_checkpoint(trainer_file(tmp_path, argparse.Namespace(lr=1.0, model="vit"))))


def test_an_unknown_class_is_named_and_can_be_allowed(tmp_path: Path) -> None:
    path = written(tmp_path, "trainer.settings.Options")
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(path)
    assert "ckpt_latest.pth holds objects of classes or functions" in str(error.value)
    assert "not read: trainer.settings.Options." in str(error.value)
    assert "Nothing of them was imported or executed" in str(error.value)
    assert "--allow-class trainer.settings.Options" in str(error.value)
    assert_weights(read_checkpoint(path, ("trainer.settings.Options",)))
    with pytest.raises(CheckpointError, match="not read: trainer"):
        read_checkpoint(path)  # Allowed once is not allowed for ever.


def test_an_unknown_class_in_a_file_of_the_old_format_is_named_too(tmp_path: Path) -> None:
    path = written(tmp_path, "trainer.settings.Options", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"not read: trainer\.settings\.Options\. .*--allow-class trainer\.settings\.Opt"):
        read_checkpoint(path)
    assert_weights(read_checkpoint(path, ("trainer.settings.Options",)))


@pytest.mark.parametrize("allowed", [(), ("hostile.code.strike",)])
def test_a_hostile_file_runs_nothing_allowed_or_not(tmp_path: Path, allowed: tuple[str, ...]) -> None:
    with module_with("hostile.code.Payload", HOSTILE) as (payload, module):
        path = trainer_file(tmp_path, payload())
        # The file is a real threat: read the usual way, it does strike.
        torch.load(path, weights_only=False)
        assert module.executed.pop() == ("now",)
        if allowed:
            assert_weights(read_checkpoint(path, allowed))
        else:
            with pytest.raises(CheckpointError, match=r"not read: hostile\.code\.strike"):
                read_checkpoint(path)
        assert module.executed == []


class Calls:
    """Pickles as the call of a function with one argument."""

    def __init__(self, function: Callable[..., Any], argument: str) -> None:
        self.call = function, (argument,)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return self.call


def test_functions_of_python_itself_run_neither_when_allowed(tmp_path: Path) -> None:
    mark = tmp_path / "struck"
    path = trainer_file(tmp_path, Calls(eval, f"open({str(mark)!r}, 'w')"))
    with pytest.raises(CheckpointError, match=r"not read: builtins\.eval"):
        read_checkpoint(path)
    assert_weights(read_checkpoint(path, ("builtins.eval",)))
    path = trainer_file(tmp_path, Calls(eval, f"open({str(mark)!r}, 'w')"), _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"not read: builtins\.eval"):
        read_checkpoint(path)
    assert not mark.exists()
    path = trainer_file(tmp_path, Calls(os.system, f"touch {mark}"))
    with pytest.raises(CheckpointError, match=r"not read: posix\.system"):
        read_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"posix\.system whose module posix is blocked"):
        read_checkpoint(path, ("posix.system",))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["EasyDict", "a.b.", "a b.C", "a.*", "--x.y", ""])
def test_an_allowed_class_needs_its_full_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"expected a full name, module\.Name"):
        read_checkpoint(trainer_file(tmp_path, {}), (name,))


def test_the_file_may_be_replaced_after_it_was_read(tmp_path: Path) -> None:
    """Weights are copies, not views of the file, and need not be read again."""
    path = trainer_file(tmp_path, {})
    state = read_checkpoint(path)
    torch.save({"model": {"other": torch.zeros(100_000)}}, path)
    assert_weights(state)


@pytest.mark.parametrize("content", [{"epoch": 3}, {}, [1, 2], {"model": {"epoch": 3}}])
def test_files_without_weights_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "published.pth")
    with pytest.raises(CheckpointError, match=r"published\.pth holds no state dict"):
        read_checkpoint(tmp_path / "published.pth")


def test_safetensors_damaged_and_missing_files(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors")
    assert read_checkpoint(tmp_path / "x.safetensors").keys() == {"a"}
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "y.safetensors")
    for name in ("broken.safetensors", "broken.pth"):
        (tmp_path / name).write_bytes(b"no weights at all")
        with pytest.raises(CheckpointError, match="cannot be read as plain weights"):
            read_checkpoint(tmp_path / name)
    whole = trainer_file(tmp_path, {}).read_bytes()
    (tmp_path / "short.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cannot be read as plain weights"):
        read_checkpoint(tmp_path / "short.pth")
