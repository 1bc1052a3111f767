"""The picture of the pipelines (Kedro-Viz) has layers: they follow one another, and every entry of the catalog is in one."""

from __future__ import annotations

from graphlib import TopologicalSorter
from typing import Any

import networkx as nx
import pytest
from kedro.framework.project import configure_project, pipelines
from kedro.pipeline import Pipeline

from tests.conftest import ROOT
from umt_pipeline.core.identity import PACKAGE
from umt_pipeline.project_config import config_loader


@pytest.fixture(scope="module")
def whole() -> Pipeline:
    configure_project(PACKAGE)
    return pipelines["__default__"]


def layer_of(catalog: dict[str, Any], name: str) -> str | None:
    """The layer of a dataset: of its own entry, or of the factory that makes it."""
    patterns = [key for key in catalog if key.startswith("{name}") and name.endswith(key.removeprefix("{name}"))]
    entry = catalog.get(name) or catalog.get(max(patterns, key=len, default=""), {})
    return entry.get("metadata", {}).get("kedro-viz", {}).get("layer")


def test_layers_do_not_run_in_a_circle(whole: Pipeline) -> None:
    """As Kedro-Viz finds them: from a layer to the next one, through whatever has none. It draws no layers in a circle."""
    catalog = config_loader(ROOT, "base")["catalog"]
    flow = nx.DiGraph()
    for node in whole.nodes:
        flow.add_edges_from((name, node) for name in node.inputs)
        flow.add_edges_from((node, name) for name in node.outputs)
    layers = {name: layer for name in whole.datasets() if (layer := layer_of(catalog, name))}
    before: dict[str, set[str]] = {layer: set() for layer in layers.values()}
    for name, layer in layers.items():
        for later in nx.descendants(flow, name):
            if layers.get(later, layer) != layer:
                before[layers[later]].add(layer)
    assert list(TopologicalSorter(before).static_order()) == [
        "raw", "primary", "teacher", "feature", "models", "model output", "reporting"
    ]  # fmt: skip


def test_nodes_have_names_that_people_read(whole: Pipeline) -> None:
    assert all(node.name == node._name for node in whole.nodes), "a node without a name is shown as its function and a hash"
