"""`python -m studies.scaling`: simulate, and write docs/scaling.md and docs/scaling.svg."""

from __future__ import annotations

from studies.scaling.document import document, lines, pace
from studies.scaling.figure import figure_svg
from studies.scaling.parts import ROOT
from umt_pipeline.core.files import staged_file

FIGURE = "scaling.svg"


def main() -> None:
    """Write page and figure."""
    for name, text in pages().items():
        with staged_file(ROOT / "docs" / name) as staged:
            staged.write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """Return what is written, by file name."""
    known = lines()
    paces = {job: pace(job) for jobs in known.values() for job in jobs}
    return {"scaling.md": document(FIGURE), FIGURE: figure_svg(known, paces)}


if __name__ == "__main__":
    main()
