"""Pictures of the search page for the documentation, of a server that runs.

python -m tests.server.screenshots http://127.0.0.1:8000 "a red disc moves left" docs/images
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image

from tests.server.browser import opened, started_browser

SIZE = {"width": 1280, "height": 820}


def main(address: str, sentence: str, folder: Path) -> None:
    """Write ``search_light.webp`` and ``search_dark.webp``: hits of a sentence, one of them playing, and why one was found."""
    folder.mkdir(parents=True, exist_ok=True)
    with started_browser() as browser:
        for scheme in ("light", "dark"):
            with opened(browser, address, viewport=SIZE, color_scheme=scheme) as page:
                page.goto("/")
                page.fill("#q", sentence)
                page.keyboard.press("Enter")
                page.locator(".hit .why").first.click()
                page.wait_for_selector(".frame img")
                page.wait_for_load_state("networkidle")
                page.locator(".hit .play").nth(1).click()
                page.wait_for_selector(".shot[data-state=playing]")
                picture = Image.open(io.BytesIO(page.screenshot()))
                picture.save(folder / f"search_{scheme}.webp", quality=82, method=6)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
