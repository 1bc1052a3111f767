"""A server from its first line to its last: the port, the models, the page, the end."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import FrameType
from urllib.parse import quote

import uvicorn

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.server.app import make_app
from umt_pipeline.server.security import LOOPBACK
from umt_pipeline.server.state import Serving

logger = logging.getLogger(__name__)

# Requests that are under way when the server is told to end have so long.
_END_WITHIN_S = 10
# Connections that nobody has taken yet.
_WAITING = 2048
# What comes through a header as it is.
_TOKEN = re.compile(r"[!-~]([ -~]*[!-~])?")


@dataclass(frozen=True)
class Address:
    """Where a server is reached.

    Attributes:
        host: name or number.
        port: number; 0: any that is free.
        token: that requests have to bring; None: none, which a server is that only this machine reaches.
    """

    host: str
    port: int
    token: str | None = None

    @property
    def only_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return self.host in LOOPBACK

    def with_token(self) -> Address:
        """Return the address with a token, made up where one is needed and none was given.

        Raises:
            ConfigError: the token that was given is none, such as that of a variable that is not set.
        """
        if self.token is not None and not _TOKEN.fullmatch(self.token):
            # Its words stay out of the message, which ends up in logs.
            raise ConfigError(
                "--token (or UMT_SERVE_TOKEN): expected characters of ASCII, as a header can carry them, found "
                f"{'others' if self.token.strip() else 'none: everybody would be let in'}. Without --token, one is made "
                "up where one is needed"
            )
        if self.token is None and not self.only_loopback:
            return Address(self.host, self.port, secrets.token_urlsafe(24))
        return self


def bound(address: Address) -> socket.socket:
    """Take the port, before anything that takes time.

    Raises:
        ConfigError: somebody else has it, or the host is not this machine's.
    """
    try:
        family, kind, _, _, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family, kind)
    except OSError as error:
        raise ConfigError(f"--host {address.host}: expected a name or number of this machine: {error}") from error
    try:
        # Else a port stays taken for a minute after a server that was reached through it.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(place)
        # Else another server could take the port, too, as long as neither answers; who comes early waits.
        taken.listen(_WAITING)
    except OSError as error:
        taken.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"--port {address.port}: expected a free port of {address.host}, found that another program has it. End that "
                "one, or give another port; --port 0 takes any that is free"
            ) from error
        raise ConfigError(f"--host {address.host} --port {address.port}: {error.strerror or error}") from error
    return taken


def run(serving: Serving, address: Address, taken: socket.socket, ready: Callable[[str], None]) -> None:
    """Answer requests until the process is told to end, by SIGTERM or Ctrl-C.

    Args:
        serving: the parts.
        address: with its token, if it needs one.
        taken: the port.
        ready: is given the page's address when it can be opened.
    """
    app = make_app(serving, address.token, address.only_loopback)
    config = uvicorn.Config(
        app,
        # The caller's logging says where messages go.
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_END_WITHIN_S,
        # Headers that claim another sender or scheme are believed of nobody.
        proxy_headers=False,
    )
    host = f"[{address.host}]" if ":" in address.host else address.host
    url = f"http://{host}:{taken.getsockname()[1]}/"
    server = _Server(config, lambda: ready(f"{url}?token={quote(address.token)}" if address.token else url))

    def told(number: int, _: FrameType | None) -> None:
        server.should_exit = True

    # uvicorn raises a signal again that has ended it, for who had a handler before: then the work is done.
    before = {number: signal.signal(number, told) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[taken])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_default_executor(_NotWaitedFor())
        await super().startup(sockets)
        if self.started:
            self._ready()


class _NotWaitedFor(ThreadPoolExecutor):
    """Threads that may be in the middle of something long at the end: a film is hashed or made playable for minutes."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=False, cancel_futures=True)


def end_now() -> None:
    """End the process, whatever threads still do; the last thing that is called, when all is put away.

    Nobody is left who waits for what they do, and they cannot be told to stop. Processes that they wait for end with this one.
    """
    if threading.active_count() > 1:
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)
