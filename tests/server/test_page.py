"""The search page in a real browser, against a real server: what a person does there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect

import umt_pipeline as umt
from tests.processes import wait_until
from tests.server.browser import CHROMIUM, opened, started_browser
from tests.server.small import Small, build_index
from tests.serving.folders import ANSWERS, MOTIONS, SHAPES
from tests.video_files import write_video
from umt_pipeline.server.app import make_app, make_serving
from umt_pipeline.server.shelf import Served
from umt_pipeline.server.state import Serving
from umt_pipeline.serving.index.reading import Index
from umt_pipeline.serving.search.calibration import Cutoff, keep_cutoff

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs a Chromium: on the PATH, or fetched by `playwright install chromium`"
)

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started_browser() as found:
        yield found


@pytest.fixture(scope="module")
def address(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of a model that has an index, and of two that know labels and answers."""
    served = [
        small.served(),
        small.served("labels", small.other("classification"), clip={"frames": 2, "size": 32}, test={"clips": 2, "crops": 1}),
        small.served("answers", small.other("question_answering"), answers=list(ANSWERS), max_question_length=8),
    ]
    with listening(served, tmp_path_factory.mktemp("cache")) as found:
        yield found


@pytest.fixture
def look(browser: Browser, address: str) -> Iterator[Open]:
    """Open the page at a path, of that server or another."""
    with ExitStack() as stack:

        def look_at(path: str = "/", at: str = address, **settings: Any) -> Page:
            page = stack.enter_context(opened(browser, at, **settings))
            page.goto(path)
            return page

        yield look_at


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A file that shows what the first second of two.mp4 does."""
    return write_video(tmp_path / "mine.mp4", 8, fps=8, first_number=50, height=96, width=128)


@contextmanager
def listening(served: Sequence[Served], cache: Path) -> Iterator[str]:
    """Yield the address of a server that listens at a port of this machine."""
    with answering(make_serving(served, cache)) as found:
        yield found


@contextmanager
def answering(serving: Serving) -> Iterator[str]:
    """Yield the address of a server whose parts are there already."""
    server = uvicorn.Server(uvicorn.Config(make_app(serving), port=0, log_level="warning"))
    thread = Thread(target=server.run)
    thread.start()
    try:
        wait_until("the server listens", lambda: server.started)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def ask(page: Page, text: str) -> None:
    page.fill("#q", text)
    page.keyboard.press("Enter")
    page.wait_for_selector(".hit .name")


def current(page: Page, video: str = ".shot video") -> float:
    return float(page.evaluate("selector => document.querySelector(selector).currentTime", video))


def first_window(page: Page) -> tuple[float, float]:
    """Return the seconds of the first hit, as it says them."""
    said = page.locator(".hit .span").first.text_content() or ""
    start, end = (60 * int(minutes) + float(seconds) for minutes, seconds in re.findall(r"(\d+):([\d.]+)", said))
    return start, end


def focused_rank(page: Page) -> int:
    return int(page.evaluate("document.activeElement.closest('.hit').dataset.rank"))


@pytest.mark.slow
def test_who_types_a_sentence_sees_clips_and_plays_one(look: Open) -> None:
    page = look()
    expect(page.locator("#q")).to_be_focused()
    ask(page, "a disc that moves")
    expect(page.get_by_role("status").first).to_contain_text("moments, best first")
    assert page.evaluate("document.querySelector('.hit .picture').decode().then(() => true)"), "the thumbnail is a picture"
    start, end = first_window(page)
    assert end > start
    page.locator(".hit .play").first.click()
    page.wait_for_selector(".shot[data-state=playing] video")
    page.wait_for_selector(".shot[data-state=ended]")
    assert start < current(page) <= end + 0.15, "it stops at the end of what was found"
    stopped = current(page)
    page.wait_for_timeout(300)
    assert current(page) == stopped
    page.get_by_role("button", name="Play again").click()
    page.wait_for_selector(".shot[data-state=playing]")
    assert start - 0.01 <= current(page) < end


def test_only_one_clip_plays(look: Open) -> None:
    page = look()
    ask(page, "a disc")
    for number in (0, 1):
        page.locator(".hit .play").nth(number).click()
        page.wait_for_selector(f".hit[data-rank='{number + 1}'] video")
    expect(page.locator(".shot video")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(page.locator(".shot video")).to_have_count(0)


def test_what_the_browser_cannot_play_comes_in_another_form(look: Open) -> None:
    page = look("/?q=a+disc")
    page.route(
        re.compile(r"/media/\w+$"), lambda route: route.fulfill(body=b"of no kind that is known", content_type="video/mp4")
    )
    page.locator(".hit .play").first.click()
    page.wait_for_selector(".shot[data-state=playing] video[src*='transcode=true']")


def test_a_file_that_has_gone_is_told_of(look: Open, own: Small, tmp_path: Path) -> None:
    with listening([own.served()], tmp_path / "cache") as address:
        page = look("/?q=a+disc", address)
        page.wait_for_selector(".hit .name")
        name = page.locator(".hit .name").first.text_content() or ""
        (own.videos / name).unlink()
        page.locator(".hit .play").first.click()
        page.wait_for_selector(".shot[data-state=failed]")
        expect(page.locator(".said").first).to_contain_text("index the folder again")
        expect(page.locator(".said code").first).to_have_text("umt index FOLDER --model MODEL --out INDEX")
        page.reload()
        expect(page.locator(".hit .note")).to_contain_text("the file cannot be opened")


def test_what_is_typed_before_the_models_are_known_stays(browser: Browser, address: str) -> None:
    with opened(browser, address) as page:
        waiting: list[Route] = []
        page.route("**/api/models", lambda route: waiting.append(route))
        page.goto("/")
        page.fill("#q", "a disc")
        wait_until("the page asks for the models", lambda: page.wait_for_timeout(20) is None and bool(waiting))
        waiting[0].continue_()
        page.wait_for_selector(".mosaic")
        expect(page.locator("#q")).to_have_value("a disc")
        page.keyboard.press("Enter")
        page.wait_for_selector(".hit .name")


def test_the_keyboard_is_enough(look: Open) -> None:
    page = look(viewport={"width": 640, "height": 900})
    ask(page, "a disc")
    page.keyboard.press("ArrowDown")
    assert focused_rank(page) == 1
    page.keyboard.press("ArrowRight")
    assert focused_rank(page) == 2
    page.keyboard.press("ArrowLeft")
    assert focused_rank(page) == 1
    page.keyboard.press("ArrowDown")
    assert focused_rank(page) > 2, "a row further down"
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    page.wait_for_selector(".hit[data-rank='1'] .shot[data-state=playing]")
    page.keyboard.press("/")
    expect(page.locator("#q")).to_be_focused()


def test_the_address_holds_what_is_looked_at(look: Open) -> None:
    page = look()
    ask(page, "a disc")
    names = page.locator(".hit .name").all_text_contents()
    page.get_by_role("button", name="More like this").nth(1).click()
    page.wait_for_url("**like=*")
    expect(page.get_by_role("heading", name="Moments like this one")).to_be_visible()
    page.wait_for_selector(".hit .name")
    assert "a disc" not in page.url
    page.go_back()
    expect(page.locator("#q")).to_have_value("a disc")
    expect(page.locator(".hit .name")).to_have_text(names)
    page.reload()
    expect(page.locator(".hit .name")).to_have_text(names)
    expect(page).to_have_title(re.compile("^a disc "))
    page.get_by_role("link", name="Search your videos").click()
    expect(page.locator(".mosaic img").first).to_be_visible()
    page.go_back()
    expect(page.locator(".hit .name")).to_have_text(names)


def test_a_file_of_ones_own_finds_its_neighbours(look: Open, clip: Path) -> None:
    page = look()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Search by a clip").click()
    chooser.value.set_files(clip)
    expect(page.get_by_role("heading", name="Moments like your clip")).to_be_visible()
    expect(page.locator(".hit .name").first).to_have_text("two.mp4")
    page.reload()
    expect(page.get_by_role("status").first).to_contain_text("choose the file again")


def test_a_file_may_be_dropped_anywhere(look: Open, clip: Path) -> None:
    page = look()
    make = """bytes => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "mine.mp4"));
        return data;
    }"""
    data = page.evaluate_handle(make, list(clip.read_bytes()))
    page.dispatch_event("main", "dragenter", {"dataTransfer": data})
    expect(page.locator("#drop")).to_be_visible()
    page.dispatch_event("main", "drop", {"dataTransfer": data})
    expect(page.locator("#drop")).to_be_hidden()
    expect(page.locator(".hit .name").first).to_have_text("two.mp4")


def test_a_file_that_is_no_video_is_refused_in_words(look: Open, tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("no video")
    page = look()
    page.set_input_files("#file", tmp_path / "notes.mp4")
    expect(page.get_by_role("alert")).to_contain_text("the uploaded file")


def test_nothing_found_is_an_answer(look: Open, own: Small, tmp_path: Path) -> None:
    cutoff = Cutoff(score=0.9876, missed=0.5, invented=0.0, present=20, absent=20, hidden=False, windows=12)
    keep_cutoff(Index.open(own.index), cutoff)
    with listening([own.served()], tmp_path / "cache") as address:
        nothing_is_found(look("/?q=a+disc", address), cutoff.score)


def nothing_is_found(page: Page, cutoff: float) -> None:
    expect(page.get_by_role("heading", name="Nothing here fits")).to_be_visible()
    expect(page.locator(".nothing")).to_contain_text(f"scores {cutoff:.3f} or more")
    expect(page.get_by_role("status").first).to_contain_text("Nothing found")
    expect(page.locator(".hit")).to_have_count(0)
    page.get_by_role("button", name="anyway").click()
    expect(page.locator(".hit[data-rank='1'] .play")).to_be_focused()
    page.go_back()
    expect(page.locator(".hit")).to_have_count(0)


def test_words_that_no_model_knows_find_nothing(look: Open) -> None:
    page = look("/?q=%D0%B0%D0%B2%D1%82%D0%BE%D0%B1%D1%83%D1%81")
    expect(page.get_by_role("heading", name="Nothing here fits")).to_be_visible()
    expect(page.locator(".nothing")).to_contain_text("the model knows no word of this text")
    page.get_by_role("button", name="anyway").click()
    expect(page.locator(".hit[data-rank='1'] .play")).to_be_focused()


def test_an_address_without_an_edition_means_the_index_that_is_served(look: Open) -> None:
    page = look("/?like=4&of=tiny")
    expect(page.locator(".hit .name").first).to_be_visible()
    assert page.evaluate("document.querySelector('#asked img').decode().then(() => true)")


def test_that_another_index_is_served_is_learnt_from_its_answers(look: Open, own: Small, tmp_path: Path) -> None:
    serving = make_serving([own.served()], tmp_path / "cache")
    with answering(serving) as address:
        page = look("/?q=a+disc", address)
        expect(page.locator("#facts")).to_contain_text("12 moments in 4 files · generation 1")
        build_index(own.folder / "other", umt.load(own.model), [own.videos / "two.mp4"])
        other = own.served(index=own.folder / "other")
        serving.thread.hand(lambda: serving.shelf.put(other)).result()
        page.get_by_role("button", name="More like this").first.click()
        expect(page.get_by_role("alert")).to_contain_text("search again")
        expect(page.get_by_role("button", name="Try again")).to_have_count(0)
        expect(page.locator("#facts")).to_contain_text("3 moments in 1 file · generation 1")
        page.go_back()
        expect(page.locator(".hit .name")).to_have_text("two.mp4")
        page.locator("summary", has_text="Filters").click()
        assert page.locator("select[name=label] option").all_text_contents() == ["any", "star"]
        page.go_forward()
        page.get_by_role("button", name="Begin anew").click()
        expect(page.locator(".mosaic img")).to_have_count(3)


def test_only_what_may_pass_is_tried_again(look: Open) -> None:
    page = look()
    page.wait_for_selector(".mosaic img")
    for status, may_pass in ((422, False), (500, True)):
        refuses(page, status)
        page.fill("#q", f"a disc {status}")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text(f"it is {status}: umt index{'Try again' * may_pass}")
        expect(page.get_by_role("alert").locator("code")).to_have_text("umt index")
        page.unroute("**/api/search*")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".hit .name").first).to_be_visible()


def refuses(page: Page, status: int) -> None:
    """Let searches of a page be answered with a status."""
    said = {"detail": f"it is {status}: `umt index`"}
    page.route("**/api/search*", lambda route: route.fulfill(status=status, json=said))


def test_where_no_index_is_served_it_is_said_how_one_is_made(look: Open, small: Small, tmp_path: Path) -> None:
    labels = small.served("labels", small.other("classification"), clip={"frames": 2, "size": 32})
    with listening([labels], tmp_path / "cache") as address:
        page = look("/", address)
        commands = ["umt index FOLDER --model MODEL --out INDEX", "umt serve --index INDEX"]
        expect(page.get_by_role("status").first.locator("code")).to_have_text(commands)
        assert_accessible(page)


def test_filters_are_those_of_the_index(look: Open) -> None:
    page = look("/?q=a+disc")
    page.get_by_text("Filters").click()
    assert page.locator("select[name=label] option").all_text_contents() == ["any", "ring", "star"]
    assert page.locator("select[name=split] option").all_text_contents() == ["any", "test"]
    page.select_option("select[name=label]", "star")
    page.wait_for_url("**label=star*")
    expect(page.locator(".hit .tag").first).to_have_text("star")
    expect(page.locator(".hit .tag", has_text="ring")).to_have_count(0)
    expect(page.locator("#filters-count")).to_have_text("1")
    page.get_by_role("button", name="More like this").first.click()
    page.wait_for_url("**like=*label=star*")
    expect(page.locator(".hit .tag").first).to_have_text("star")
    expect(page.locator(".hit .tag", has_text="ring")).to_have_count(0)


def test_why_shows_the_frames_and_ranking_anew_the_match(look: Open) -> None:
    page = look("/?q=a+disc")
    page.get_by_role("button", name="Why").first.click()
    expect(page.locator(".frame")).not_to_have_count(0)
    shares = [float(share.split()[0]) for share in page.locator(".frame .share").all_text_contents()]
    assert sum(shares) == pytest.approx(100, abs=3)
    expect(page.locator(".panel .numbers")).to_contain_text("match")
    page.keyboard.press("Escape")
    page.get_by_text("Re-rank").click()
    page.wait_for_url("**rerank=1*")
    expect(page.locator(".hit .numbers").first).to_contain_text("match")


def test_models_that_know_labels_and_answers_are_asked_about_a_hit(look: Open) -> None:
    page = look("/?q=a+disc")
    page.get_by_role("button", name="Why").first.click()
    page.get_by_role("button", name="What is shown?").click()
    expect(page.locator(".bars figcaption")).to_have_text(["motion", "shape"])
    assert set(page.locator(".bars .text").all_text_contents()) == {*MOTIONS, *SHAPES}
    page.fill("[name=question]", "which way does it go?")
    page.keyboard.press("Enter")
    expect(page.locator(".bars figcaption")).to_have_text(["which way does it go?"])
    assert set(page.locator(".bars .text").all_text_contents()) == set(ANSWERS)


@pytest.mark.slow
def test_models_are_seen_side_by_side(look: Open, small: Small, clip: Path, tmp_path: Path) -> None:
    student = small.other("stage1")
    build_index(tmp_path / "index", umt.load(student), sorted(small.videos.iterdir()))
    with listening([small.served(), small.served("student", student, tmp_path / "index")], tmp_path / "cache") as address:
        page = look("/?q=a+disc", address)
        page.wait_for_selector(".hit .name")
        expect(page.get_by_role("status").first).to_contain_text("student reads no text")
        page.set_input_files("#file", clip)
        expect(page.locator(".column h2")).to_have_text(["tiny", "student"])
        for name in ("tiny", "student"):
            expect(page.get_by_role("region", name=f"Found by {name}").locator(".hit .name").first).to_have_text("two.mp4")
        assert_accessible(page)
        page.get_by_role("checkbox", name="student").uncheck()
        page.wait_for_url("**model=tiny*")
        expect(page.locator(".column")).to_have_count(1)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)])
def test_nothing_stands_in_the_way_of_who_sees_or_moves_little(look: Open, scheme: str, width: int) -> None:
    page = look(color_scheme=scheme, reduced_motion="reduce", viewport={"width": width, "height": 900})
    page.wait_for_selector(".mosaic img")
    assert_accessible(page)
    ask(page, "a disc")
    page.get_by_role("button", name="Why").first.click()
    page.wait_for_selector(".frame")
    page.get_by_text("Filters").click()
    assert_accessible(page)
    page.goto(f"/?q={'x' * 3000}")
    expect(page.get_by_role("alert")).to_be_visible()
    assert_accessible(page)


def assert_accessible(page: Page) -> None:
    found = Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []


@pytest.mark.parametrize("width", [390, 820, 1600])
def test_it_fits_the_window(look: Open, width: int) -> None:
    page = look("/?q=a+disc", viewport={"width": width, "height": 900})
    page.wait_for_selector(".hit .name")
    page.get_by_role("button", name="Why").first.click()
    page.wait_for_selector(".frame")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
