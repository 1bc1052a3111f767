"""Who is let in, and what browsers are told; nothing here needs a model."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.server.running import Address, bound
from umt_pipeline.server.security import COOKIE, Guard


def client(token: str | None = None, only_loopback: bool = True, host: str = "127.0.0.1:8000") -> TestClient:
    async def said(_: Request) -> PlainTextResponse:
        return PlainTextResponse("said")

    methods = ["GET", "POST"]
    app = Starlette(routes=[Route(path, said, methods=methods) for path in ("/", "/api/models", "/healthz", "/media/x")])
    return TestClient(Guard(app, token, only_loopback), base_url=f"http://{host}", follow_redirects=False)


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000"])
def test_names_of_this_machine_are_answered(host: str) -> None:
    assert client().get("/api/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8000", "localhost.evil.example", "", "[::2]"])
def test_another_name_that_means_this_machine_is_refused(host: str) -> None:
    found = client().get("/api/models", headers={"Host": host})
    assert found.status_code == 421
    assert "127.0.0.1 or localhost" in found.json()["detail"]
    assert client(only_loopback=False).get("/api/models", headers={"Host": host}).status_code == 200


def test_browsers_are_told_what_not_to_do() -> None:
    for found in (client().get("/"), client(token="T").get("/api/models")):
        policy = found.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert found.headers["x-content-type-options"] == "nosniff"
        assert found.headers["cache-control"] == "no-store"


def test_pages_of_other_sites_cannot_post() -> None:
    ask = client()
    assert ask.post("/api/models", headers={"Origin": "http://evil.example"}).status_code == 403
    assert ask.post("/api/models", headers={"Origin": "null"}).status_code == 403
    assert ask.post("/api/models", headers={"Origin": "http://[bad"}).status_code == 403
    assert ask.post("/api/models", headers={"Origin": "http://127.0.0.1:8000"}).status_code == 200
    assert ask.post("/api/models").status_code == 200, "programs send no origin"


def test_without_the_token_nothing_is_given_but_health() -> None:
    ask = client(token="secret", only_loopback=False)
    for path in ("/", "/api/models", "/media/x", "/api/models?token=secret"):
        found = ask.get(path)
        assert found.status_code == 401
        assert found.headers["www-authenticate"] == "Bearer"
    assert ask.get("/healthz").status_code == 200
    for wrong in ("", "Secret", "secret2", "sécret"):
        assert ask.get("/api/models", headers={"Authorization": f"Bearer {wrong}".encode()}).status_code == 401
        assert ask.get("/", params={"token": wrong}).status_code == 401
    assert ask.get("/api/models", headers={"Authorization": "Basic secret"}).status_code == 401
    assert ask.get("/api/models", headers={"Authorization": "Bearer secret"}).status_code == 200


def test_the_link_with_the_token_gives_a_cookie_and_goes_out_of_the_address() -> None:
    ask = client(token="secret")
    found = ask.get("/?token=secret")
    assert (found.status_code, found.headers["location"]) == (303, "/")
    cookie = found.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie, "a link in a web page leads to the page, not to a refusal"
    assert ask.get("/api/models").status_code == 200, "the client keeps the cookie"
    ask.cookies.set(COOKIE, "other")
    assert client(token="secret").get("/api/models", headers={"Cookie": f"{COOKIE}=other"}).status_code == 401
    assert client(token="secret").get("/api/models", headers={"Cookie": "\x00;=;;"}).status_code == 401


def test_cookies_of_other_servers_of_this_host_are_in_nobodys_way() -> None:
    for others in ("theirs[1]=x", 'theirs="x', "{}=1"):
        found = client(token="secret").get("/api/models", headers={"Cookie": f"{others}; {COOKIE}=secret"})
        assert found.status_code == 200, others


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("token", ["", " ", "end ", "sécret", "a\nb"])
def test_a_token_that_is_none_lets_nobody_in(host: str, token: str) -> None:
    with pytest.raises(ConfigError, match="--token") as raised:
        Address(host, 8000, token).with_token()
    assert token.strip() == "" or token not in str(raised.value)


@pytest.mark.parametrize("token", ["two words", 'a;"b', "a+b/c=", "{}"])
def test_any_other_token_comes_through_link_cookie_and_header(token: str) -> None:
    assert Address("0.0.0.0", 8000, token).with_token().token == token
    ask = client(token=token)
    assert ask.get(f"/?token={quote(token)}").status_code == 303
    cookie = ask.cookies.get(COOKIE)
    assert ask.get("/api/models", headers={"Cookie": f"{COOKIE}={cookie}"}).status_code == 200
    assert client(token=token).get("/api/models", headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_a_port_is_taken_before_anybody_answers_at_it() -> None:
    with bound(Address("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="expected a free port"):
        bound(Address("127.0.0.1", taken.getsockname()[1]))


def test_a_token_is_made_up_where_others_reach_the_server() -> None:
    assert Address("127.0.0.1", 8000).with_token().token is None
    first, second = (Address("0.0.0.0", 8000).with_token().token for _ in range(2))
    assert first is not None
    assert len(first) > 20
    assert first != second
    assert Address("0.0.0.0", 8000, first).with_token().token == first
