"""Where offline work is done is asked before anything is begun, and a Ray that is not there is told in plain words."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import yaml
from pydantic import ValidationError

from tests.conftest import ROOT
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.executors import OFFLINE, OfflineParams, open_executor, params


def test_by_default_this_machine_does_it() -> None:
    content = yaml.safe_load((ROOT / "conf" / "base" / f"parameters_{OFFLINE}.yml").read_text(encoding="utf-8"))
    assert OfflineParams.model_validate(content[OFFLINE]) == OfflineParams()
    OfflineParams().check_inputs()
    with open_executor(OfflineParams()) as executor:
        assert executor is None


def test_ray_that_is_not_installed_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(params, "find_spec", lambda name: None)
    with (
        pytest.raises(ConfigError, match=r"pip install 'umt_pipeline\[ray\]'"),
        open_executor(OfflineParams(executor="ray")),
    ):
        pass


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as taken:  # bound and not listening: nobody answers, and nobody else can take it
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_an_address_where_nobody_answers_is_refused_before_the_first_step(
    closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(params, "find_spec", lambda name: name)
    address = f"127.0.0.1:{closed_port}"
    with pytest.raises(ConfigError, match=rf"{address}, but nobody answers there .*refused.*ray status"):
        OfflineParams(executor="ray", ray_address=address).check_inputs()


@pytest.mark.parametrize("address", ["", "head", "ray://head:10001", "head:port", ":6379"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValidationError, match="expected null, auto or HOST:PORT"):
        OfflineParams(executor="ray", ray_address=address)
