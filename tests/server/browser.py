"""A headless Chromium that looks at a page, and complains of what a person would not see."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

# What is waited for costs a moment; a machine that does other things too takes longer.
_PATIENCE_MS = 30_000
expect.set_options(timeout=_PATIENCE_MS)



def find_chromium() -> str | None:
    """Return the Chromium of the PATH, or the one that `playwright install chromium` has fetched, if there is any."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        with sync_playwright() as playwright:
            fetched = playwright.chromium.executable_path
        found = fetched if Path(fetched).is_file() else None
    return found


CHROMIUM = find_chromium()


@contextmanager
def started_browser() -> Iterator[Browser]:
    """Yield the Chromium that there is."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, address: str, **settings: Any) -> Iterator[Page]:
    """Yield a page in a fresh context; ``goto("/…")`` goes below the address.

    Args:
        browser: from :func:`started_browser`.
        address: of the server.
        settings: of the context, such as ``color_scheme``.

    Raises:
        AssertionError: afterwards: a script failed, the page broke its own rules, or it asked somebody else for something.
    """
    complaints: list[str] = []
    context = browser.new_context(base_url=address, **settings)
    page = context.new_page()
    page.set_default_timeout(_PATIENCE_MS)
    page.on("pageerror", lambda error: complaints.append(f"script: {error}"))
    # What the server refused is the page's to show, and a test's to expect.
    page.on("console", lambda said: complaints.append(said.text) if _is_defect(said.type, said.text) else None)
    page.on(
        "request",
        lambda request: complaints.append(f"elsewhere: {request.url}") if _is_elsewhere(request.url, address) else None,
    )
    yield page
    context.close()
    assert not complaints


def _is_defect(kind: str, text: str) -> bool:
    return kind == "error" and not text.startswith("Failed to load resource")


def _is_elsewhere(url: str, address: str) -> bool:
    return not url.startswith((address, "blob:", "data:"))
