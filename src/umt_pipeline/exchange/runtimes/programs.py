"""Networks as files that run without the package: ONNX, and programs of torch.export.

Shapes: B clips or texts, L text length.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.exchange.runtimes.parts import Part, run

# Opset 20 has GELU as one operator, and every ONNX Runtime of the last two years reads it.
OPSET = 20
# A protobuf file holds no more; the rest of the graph needs a little of it.
LARGEST_ONNX = 2**31 - 2**24
PACKAGES = ("onnx", "onnxscript", "onnxruntime")

Runner = Callable[..., Tensor]


@dataclass(frozen=True)
class Runtime:
    """A way to write a network into one file and to run it from there.

    Attributes:
        suffix: of the file.
        write: a part, given inputs of at least two rows, into a file.
        load: a function of the inputs.
        facts: of the format, for the manifest.
        packages: that it needs beside the package's own.
    """

    suffix: str
    write: Callable[[Part, tuple[Tensor, ...], Path], None]
    load: Callable[[Path], Runner]
    facts: Callable[[], Mapping[str, Any]]
    packages: tuple[str, ...] = ()

    def require_packages(self) -> None:
        """Refuse to start without what the format needs.

        Raises:
            ConfigError: a package is missing.
        """
        if missing := [name for name in self.packages if importlib.util.find_spec(name) is None]:
            raise ConfigError(f"an export to {self.suffix} needs {', '.join(missing)}: pip install 'umt_pipeline[export]'")


def write_onnx(part: Part, example: tuple[Tensor, ...], path: Path) -> None:
    """Write an ONNX model whose number of clips or texts, and length of texts, are open.

    Raises:
        ConfigError: its weights are larger than an ONNX file can be.
    """
    weights = sum(tensor.nbytes for tensor in part.network.state_dict().values())
    if weights > LARGEST_ONNX:
        raise ConfigError(
            f"the {part.name} part has {weights / 1e9:.1f} GB of weights, and an ONNX file holds up to "
            f"{LARGEST_ONNX / 1e9:.1f} GB: take --format torch"
        )
    with _quiet():
        program = torch.onnx.export(
            _program(part, example),
            dynamo=True,
            input_names=part.inputs,
            output_names=[part.output],
            dynamic_shapes=_open_sizes(part),  # their names; the program knows them without
            opset_version=OPSET,
            verbose=False,
        )
        assert program is not None, "the exporter gives a program where it is given no file"
        program.save(path, external_data=False)


def load_onnx(path: Path) -> Runner:
    """Return a function that runs an ONNX model on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]

    def run_session(*inputs: Tensor) -> Tensor:
        fed = dict(zip(names, (tensor.numpy() for tensor in inputs), strict=True))
        return torch.from_numpy(session.run(None, fed)[0])

    return run_session


def write_torch(part: Part, example: tuple[Tensor, ...], path: Path) -> None:
    """Write a program of torch.export whose number of clips or texts, and length of texts, are open."""
    with _quiet():
        torch.export.save(_program(part, example), path)


def load_torch(path: Path) -> Runner:
    """Return a function that runs a program of torch.export."""
    module = torch.export.load(path).module()

    @torch.inference_mode()
    def run_program(*inputs: Tensor) -> Tensor:
        found: Tensor = module(*inputs)
        return found

    return run_program


def _onnx_facts() -> Mapping[str, Any]:
    import onnxruntime

    return {"opset": OPSET, "onnxruntime": onnxruntime.__version__}


RUNTIMES = {
    "onnx": Runtime(".onnx", write_onnx, load_onnx, _onnx_facts, PACKAGES),
    "torch": Runtime(".pt2", write_torch, load_torch, dict),
}


def _open_sizes(part: Part) -> tuple[dict[int, Any], ...]:
    rows = torch.export.Dim("batch", min=1)
    if part.longest is None:
        return ({0: rows},)
    return ({0: rows, 1: torch.export.Dim("tokens", min=1, max=part.longest)},) * len(part.inputs)


def _program(part: Part, example: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    """Trace a network; nothing of the example and of this machine's folders stays in the program."""
    # Of the example's shape alone: programs keep what they were traced with, and clips may be somebody's.
    blank = tuple(torch.ones_like(tensor) for tensor in example)
    # What the network keeps after its first call must be real tensors, not the stand-ins that it is traced with.
    run(part, *blank)
    program = torch.export.export(part.network, blank, dynamic_shapes=_open_sizes(part))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' notes on their own insides from the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
