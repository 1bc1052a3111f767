"""Who may ask, and what a browser may do with the answers."""

from __future__ import annotations

import secrets
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "umt_token"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
# Without a token, so that who starts and watches servers can ask.
_OPEN = frozenset({"/healthz"})
_HEADERS = {
    # Nothing from elsewhere, no script or style in the page itself.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """Stands before the application.

    Args:
        app: the application.
        token: that requests have to bring, as ``Authorization: Bearer`` or in a cookie, which ``/?token=`` sets; None: nobody
            is asked for one.
        only_loopback: refuse requests for other host names than this machine's: a page from elsewhere could have its own name
            mean 127.0.0.1, and then read the answers.
    """

    def __init__(self, app: ASGIApp, token: str | None, only_loopback: bool) -> None:
        self._app, self._token, self._only_loopback = app, token, only_loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        answer = self._answer(scope)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                # What is seen belongs to who asked, and may be another in a moment.
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await (answer or self._app)(scope, receive, send_guarded)

    def _answer(self, scope: Scope) -> Response | None:
        """Return an answer in place of the application's, or None."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._only_loopback and _name(host) not in LOOPBACK:
            return _refusal(421, f"expected a request for this machine (127.0.0.1 or localhost), found host {host[:200]!r}")
        origin = headers.get("origin")
        if scope["method"] not in ("GET", "HEAD") and origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            return _refusal(403, f"expected a request of the server's own page, found one of {origin[:200]!r}")
        if self._token is None or scope["path"] in _OPEN:
            return None
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and given and self._fits(given):
            redirect = RedirectResponse("/", status_code=303)
            # Not "strict": who follows the link from a message in a web page would come to "/" without it. Pages of other sites
            # can neither send it with a POST nor read what it gives.
            redirect.set_cookie(COOKIE, given, httponly=True, samesite="lax", secure=scope["scheme"] == "https", path="/")
            return redirect
        if self._fits(_bearer(headers)) or self._fits(_cookie(headers)):
            return None
        detail = "expected the server's token: open /?token=TOKEN once, or send the header Authorization: Bearer TOKEN"
        return _refusal(401, detail, {"WWW-Authenticate": "Bearer"})

    def _fits(self, given: str) -> bool:
        assert self._token is not None
        # Takes as long for a wrong token as for one that is almost right.
        return secrets.compare_digest(given.encode("utf-8", "surrogateescape"), self._token.encode())


def _refusal(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"detail": detail}, status, headers)


def _name(host: str) -> str:
    """Return a host without its port: of ``[::1]:8000`` it is ``::1``."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _bearer(headers: Headers) -> str:
    kind, _, value = headers.get("authorization", "").partition(" ")
    return value.strip() if kind.lower() == "bearer" else ""


def _cookie(headers: Headers) -> str:
    # Not http.cookies, which gives up at the first cookie of another server of this host that is not to its liking.
    return cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
