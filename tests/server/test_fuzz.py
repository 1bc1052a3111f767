"""Whatever a client sends that the description allows, or does not, the server answers as the description says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from tests.server.process import ServeProcess, serving
from tests.server.small import make_small

pytestmark = pytest.mark.slow

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
BOUNDED = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    folder = tmp_path_factory.mktemp("fuzz")
    with serving(["--index", make_small(folder).index, "--port", "0"], folder) as found:
        yield found


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=str)
def test_the_server_survives(server: ServeProcess, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{server.base}/openapi.json")
    asked: Counter[str] = Counter()
    for found in schema.get_all_operations():
        operation = found.ok()

        @BOUNDED
        @given(case=operation.as_strategy(generation_mode=mode))
        def survives(case: Any) -> None:
            asked[case.operation.label] += 1
            case.call_and_validate(base_url=server.base, checks=CHECKS)

        try:
            survives()
        except Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE, "only what takes nothing cannot be asked wrongly"
    assert len(asked) >= 8, asked
    assert httpx.get(f"{server.base}/healthz", timeout=60).json() == {"status": "ok", "problems": []}
