"""Whatever a client sends that the description allows, or does not, the server answers as the description says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from tests.server.small import make_small
from umt_pipeline.server.app import make_app, make_serving

pytestmark = pytest.mark.slow

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def description(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("fuzz")
    serving = make_serving([make_small(folder).served()], folder / "cache")
    yield schemathesis.openapi.from_asgi("/openapi.json", make_app(serving, only_loopback=False))
    serving.thread.close()


schema = schemathesis.pytest.from_fixture("description")


@schema.parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_the_server_survives(case: Any) -> None:
    case.call_and_validate(checks=CHECKS)
