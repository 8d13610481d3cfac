"""The atlas in headless Chromium, opened from disk: pictures, keys, search, phones, without JavaScript."""

import contextlib
from urllib.parse import quote

import atlas_sites
import pytest
from atlas_sites import CLASSES, MANY
from browsers import DESK, PHONE, chromium, href

from zfjax.atlas import site

pytestmark = pytest.mark.slow

ABORTED = "net::ERR_ABORTED"


@pytest.fixture(scope="module")
def browser():
    with chromium() as launched:
        yield launched


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    return atlas_sites.write(tmp_path_factory.mktemp("a site & more"))


@pytest.fixture
def open_page(browser, made_up):
    """Opens pages; at the end none of them had an error, a dialog or a request that failed or left the disk."""
    wrong = []
    with contextlib.ExitStack() as stack:

        def opened(path, viewport=DESK, fragment="", **options):
            page = stack.enter_context(browser.new_context(viewport=viewport, **options)).new_page()
            page.on("console", lambda message: wrong.append(message.text))
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
            # A page that is left while it loads is no failure.
            page.on("requestfailed", lambda request: request.failure == ABORTED or wrong.append(request.url))
            page.on("request", lambda request: request.url.startswith(("file:", "data:")) or wrong.append(request.url))
            page.goto(url(made_up, path) + fragment)
            return page

        yield opened
        assert not wrong


def url(folder, path):
    return (folder / path).as_uri()


def loaded(page):
    """For each image whether it was loaded."""
    return page.evaluate("[...document.images].map(i => i.complete && i.naturalWidth > 0)")


PAGES = [
    "index.html",
    site.layer_path("relu1"),
    site.layer_path("relu4"),
    *(site.map_path("relu1", number) for number in range(3)),
    site.map_path("relu4", 17),
    *map(site.class_path, range(len(CLASSES))),
]


@pytest.mark.parametrize("path", PAGES)
def test_all_images_load_once_they_are_scrolled_to(open_page, path):
    page = open_page(path)
    for i in range(0, page.evaluate("document.images.length"), 8):
        page.evaluate("i => document.images[i].scrollIntoView()", i)
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    page.evaluate("Promise.all([...document.images].map(i => { i.loading = 'eager'; return i.decode() }))")
    assert all(loaded(page))


def test_a_layer_of_many_maps_loads_what_is_seen_and_nothing_jumps(open_page):
    page = open_page(site.layer_path("relu4"))
    page.wait_for_function("document.images[0].naturalWidth > 0")
    before = loaded(page)
    height = page.evaluate("document.documentElement.scrollHeight")
    assert len(before) == MANY
    assert not any(before[MANY // 2 :])
    page.evaluate("document.images[document.images.length - 1].scrollIntoView()")
    page.wait_for_function("i => document.images[i].naturalWidth > 0", arg=MANY - 1)
    assert not all(loaded(page))
    assert page.evaluate("document.documentElement.scrollHeight") == height


def test_tiles_show_their_part_of_the_picture(open_page):
    """Each is cut from the map's picture by style: what is seen lies where the sheet says."""
    page = open_page(site.map_path("relu4", 17))
    tiles = page.locator(".tile")
    assert tiles.count() == 18
    seen = tiles.evaluate_all(
        """tiles => tiles.map(tile => {
             const box = tile.getBoundingClientRect(), image = tile.querySelector('img').getBoundingClientRect();
             const scale = tile.querySelector('img').width / +tile.querySelector('img').getAttribute('width');
             return [(box.left - image.left) / scale, (box.top - image.top) / scale, box.width / scale];
           })"""
    )
    sheets = [120 * column + 2 * column + (6 if column > 2 else 0) for column in range(6)]
    for i in range(9):
        for side in range(2):
            left, top, width = seen[2 * i + side]
            assert left == pytest.approx(sheets[i % 3 + 3 * side], abs=0.5)
            assert top == pytest.approx(122 * (i // 3), abs=0.5)
            assert width == pytest.approx(120, abs=0.5)


def test_arrows_walk_through_maps_layers_and_classes(open_page, made_up):
    page = open_page(site.map_path("relu4", 17))

    def press(key, path):
        page.keyboard.press(key)
        page.wait_for_url(url(made_up, path))

    press("ArrowRight", site.map_path("relu4", 18))
    press("ArrowLeft", site.map_path("relu4", 17))
    press("ArrowUp", site.layer_path("relu4"))
    press("ArrowLeft", site.layer_path("relu1"))
    press("ArrowRight", site.layer_path("relu4"))
    press("u", "index.html")
    page.goto(url(made_up, site.class_path(0)))
    press("ArrowRight", site.class_path(1))
    page.keyboard.press("u")
    page.wait_for_url(url(made_up, "index.html") + "#classes")


def test_the_arrow_up_scrolls_where_there_is_something_above(open_page, made_up):
    page = open_page(site.map_path("relu4", 17), viewport=PHONE)
    page.evaluate("window.scrollTo(0, 600)")
    page.keyboard.press("ArrowUp")
    page.wait_for_function("window.scrollY > 0 && window.scrollY < 600")
    page.keyboard.press("Control+ArrowRight")  # the browser's own
    page.wait_for_timeout(100)
    assert href(page) == url(made_up, site.map_path("relu4", 17))
    page.goto(url(made_up, site.map_path("relu4", 0)))
    page.keyboard.press("ArrowLeft")  # there is none before
    page.wait_for_timeout(100)
    assert href(page) == url(made_up, site.map_path("relu4", 0))


def results(page):
    return page.locator("#found a bdi").all_inner_texts()


def test_search_finds_layers_maps_and_classes(open_page, made_up):
    page = open_page(site.map_path("relu1", 0))
    page.keyboard.press("/")
    page.keyboard.type("relu4 17")
    assert results(page) == ["map 17 of layer 4 (relu4)"]
    assert href(page).endswith("#q=relu4%2017")
    page.keyboard.press("Enter")
    page.wait_for_url(url(made_up, site.map_path("relu4", 17)))
    for query, expected in (
        ("layer 4", ["layer 4 (relu4)", "map 4 of layer 4 (relu4)"]),
        ("17", ["map 17 of layer 4 (relu4)"]),
        ("map 2", ["map 2 of layer 1 (relu1)", "map 2 of layer 4 (relu4)"]),
        ("relu1/2", ["map 2 of layer 1 (relu1)"]),
        ("relu4 400", []),
        ("PLAIN", ["plain"]),
        ("nowhere", []),
    ):
        page.locator("#search").fill(query)
        assert results(page) == expected, query
    expected = "Nothing. Try a class, a layer like relu1, or a map like relu1 2."
    assert page.locator("#found").inner_text() == expected


def test_results_are_walked_by_arrows_and_left_by_escape(open_page, made_up):
    page = open_page("index.html")
    page.keyboard.press("/")
    page.keyboard.type("ünï")
    assert results(page)[0] == CLASSES[3]
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.querySelector('small').textContent") == f"prefers {CLASSES[3]}"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Escape")
    assert page.locator("#found").is_hidden()
    assert page.locator("#search").input_value() == ""
    assert href(page) == url(made_up, "index.html")
    page.keyboard.press("/")
    page.keyboard.type("ünï")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url(url(made_up, site.class_path(3)))
    assert page.locator("h1").inner_text() == CLASSES[3]


@pytest.mark.parametrize(("path", "fragment"), [("index.html", "#relu4"), (site.map_path("relu4", 17), "#image-3")])
def test_escape_restores_the_place_that_the_address_had(open_page, made_up, path, fragment):
    page = open_page(path, fragment=fragment)
    page.keyboard.press("/")
    page.keyboard.type("plain")
    assert href(page) == url(made_up, path) + "#q=plain"
    page.keyboard.press("Escape")
    assert href(page) == url(made_up, path) + fragment
    page.keyboard.press("/")
    page.keyboard.type("p")
    page.keyboard.press("Backspace")  # so does an empty search
    assert href(page) == url(made_up, path) + fragment


def test_an_address_with_another_place_ends_the_search(open_page, made_up):
    page = open_page("index.html", fragment="#q=plain")
    assert results(page)
    page.evaluate("location.hash = '#relu4'")
    page.wait_for_function("document.getElementById('found').hidden")
    assert page.locator("#search").input_value() == ""
    page.keyboard.press("/")
    page.keyboard.type("plain")
    page.keyboard.press("Escape")
    assert href(page) == url(made_up, "index.html") + "#relu4"
    page.go_back()
    page.wait_for_function("!document.getElementById('found').hidden")
    assert page.locator("#search").input_value() == "plain"


def test_tabbing_out_of_the_search_closes_the_results(open_page):
    page = open_page("index.html")
    page.keyboard.press("/")
    page.keyboard.type("relu4 17")
    page.keyboard.press("Tab")  # to the only result
    assert page.locator("#found").is_visible()
    assert page.evaluate("document.activeElement.closest('#found') !== null")
    page.keyboard.press("Tab")
    assert page.locator("#found").is_hidden()
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.id") == "search"
    assert page.locator("#found").is_visible()
    page.keyboard.press("Shift+Tab")
    assert page.locator("#found").is_hidden()


def test_arrows_with_shift_are_the_browsers(open_page, made_up):
    page = open_page(site.map_path("relu4", 17))
    for key in ("Shift+ArrowRight", "Shift+ArrowLeft", "Shift+ArrowUp"):
        page.keyboard.press(key)
    page.wait_for_timeout(200)
    assert href(page) == url(made_up, site.map_path("relu4", 17))
    # Many keyboards have it above another key.
    page.evaluate(
        "document.body.dispatchEvent(new KeyboardEvent('keydown', {key: '/', shiftKey: true, bubbles: true}))"
    )
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("plain")
    page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Shift+ArrowUp")  # selects to the start
    assert page.evaluate("document.activeElement.id") == "search"
    selected = page.evaluate("[document.activeElement.selectionStart, document.activeElement.selectionEnd]")
    assert selected == [0, 5]


def test_a_browser_that_refuses_more_addresses_searches_on(open_page):
    page = open_page("index.html")
    page.evaluate("() => { history.replaceState = () => { throw new DOMException('too many', 'SecurityError') } }")
    page.keyboard.press("/")
    page.keyboard.type("relu4 17")
    assert results(page) == ["map 17 of layer 4 (relu4)"]
    page.keyboard.press("Escape")
    assert page.locator("#found").is_hidden()
    assert page.evaluate("document.activeElement.id") == "main"


@pytest.mark.parametrize("label", range(len(CLASSES)))
def test_every_class_is_found_by_its_name_and_stays_text(open_page, made_up, label):
    """A link to a query opens the search with it; scripts in names do not run, which the fixture looks for."""
    page = open_page("index.html", fragment=f"#q={quote(CLASSES[label])}")
    assert page.locator("#search").input_value() == CLASSES[label]
    assert results(page)[0] == CLASSES[label]
    assert page.locator("#found img, #found script, bdi *").count() == 0
    page.locator("#found a").first.click()
    page.wait_for_url(url(made_up, site.class_path(label)))
    assert page.locator("h1").inner_text() == CLASSES[label]


def test_a_query_that_is_no_uri_is_taken_as_it_is(open_page):
    page = open_page("index.html", fragment="#q=100%")
    assert page.locator("#search").input_value() == "100%"


@pytest.mark.parametrize("viewport", [DESK, PHONE])
def test_links_to_an_image_lead_there(open_page, viewport):
    page = open_page(site.map_path("relu4", 17), viewport=viewport, fragment="#image-8")
    page.wait_for_function("window.scrollY > 0")
    top = page.locator("#image-8").bounding_box()["y"]
    assert 40 < top < viewport["height"] - 100  # below the header
    assert page.evaluate("document.querySelector('#image-8').matches(':target')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES)
def test_a_phone_needs_no_scrolling_sideways(open_page, path, scheme):
    page = open_page(path, viewport=PHONE, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    light = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).reduce((a, b) => a + +b, 0)")
    assert light > 700 if scheme == "light" else light < 100
    page.keyboard.press("/")
    page.keyboard.type("e")
    box = page.locator("#found").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= PHONE["width"]


def test_without_javascript_everything_but_search_is_there(open_page, made_up):
    page = open_page("index.html", java_script_enabled=False)
    assert page.locator("#search").is_hidden()
    page.get_by_role("link", name="Layer 4 (relu4)").click()
    page.locator("main a.card").nth(17).click()
    page.wait_for_url(url(made_up, site.map_path("relu4", 17)))
    page.get_by_role("link", name="18 →").click()
    page.wait_for_url(url(made_up, site.map_path("relu4", 18)))
    assert page.get_by_role("img", name="Histogram of the activations").count() == 1
    assert page.get_by_role("img", name="Projection of map 18").count() == 9


def test_what_a_screen_reader_is_told(open_page):
    page = open_page(site.map_path("relu4", 17))
    for role in ("banner", "main", "contentinfo", "search"):
        assert page.get_by_role(role).count() == 1, role
    assert page.get_by_role("heading", level=1).count() == 1
    assert page.title() == "Map 17 of layer 4 (relu4) · <i>run</i> · atlas"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the pictures"
    assert page.locator("a.skip").bounding_box()["x"] >= 0
    unnamed = "[...document.querySelectorAll('a')].filter(a => !(a.textContent.trim() || a.getAttribute('aria-label')))"
    assert page.evaluate(f"{unnamed}.length") == 0
