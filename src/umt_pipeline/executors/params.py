"""The parameter that chooses an executor."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Literal

from pydantic import model_validator

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.executor import Executor

# The block of the parameters. No pipeline has its name, and no result depends on it.
OFFLINE = "offline"
# A machine that is there answers at once; one that is not says nothing at all.
ANSWERS_WITHIN_S = 10.0


class OfflineParams(Config):
    """Where offline work is done.

    Attributes:
        executor: ``local``: by processes of this machine; ``ray``: by workers of a Ray cluster.
        ray_address: None: a Ray is started on this machine for the work and ended after it; ``HOST:PORT`` of the head of a
            cluster; ``auto``: the cluster that this machine belongs to.
    """

    executor: Literal["local", "ray"] = "local"
    ray_address: str | None = None

    @model_validator(mode="after")
    def _check(self) -> OfflineParams:
        if self.ray_address is None or self.ray_address == "auto":
            return self
        host, _, port = self.ray_address.rpartition(":")
        if not host or "/" in host or not port.isdecimal():
            raise ValueError(
                f"ray_address: expected null, auto or HOST:PORT of a Ray cluster's head, found {self.ray_address!r}"
            )
        return self

    def check_inputs(self) -> None:
        """Check that Ray is installed, and that somebody is at the address."""
        if self.executor != "ray":
            return
        if find_spec("ray") is None:
            raise ConfigError("executor is 'ray', but Ray is not installed. Run: pip install 'umt_pipeline[ray]'")
        if self.ray_address not in (None, "auto"):
            host, _, port = str(self.ray_address).rpartition(":")
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWERS_WITHIN_S).close()
            except OSError as error:
                raise ConfigError(
                    f"ray_address: expected the head of a Ray cluster at {self.ray_address}, but nobody answers there "
                    f"({error}). Is the cluster up (`ray status` on its head), and is the port open to this machine?"
                ) from error


LOCAL = OfflineParams()


@contextmanager
def open_executor(params: OfflineParams) -> Iterator[Executor | None]:
    """Yield what does offline work; None: this machine's own processes do it.

    Raises:
        ConfigError: Ray is not installed, or nobody is at its address.
    """
    if params.executor == "local":
        yield None
        return
    params.check_inputs()
    from umt_pipeline.executors.ray_executor import RayExecutor  # Ray is an extra, and takes two seconds to import

    with RayExecutor(params.ray_address) as executor:
        yield executor
