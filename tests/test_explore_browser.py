"""The live page in headless Chromium with the network cut, and its server asked directly."""

import contextlib
import importlib
import importlib.util
import io
import json
import pathlib
import signal
import socket
import sys
import tempfile
import threading
import types
import urllib.error
import urllib.request

import atlas_sites
import explore_sites
import numpy as np
import pytest
import tiny_runs
from browsers import DESK, PHONE, chromium, href, missing
from explore_sites import SIDE
from PIL import Image

import zfjax
from zfjax.atlas import site
from zfjax.console import command
from zfjax.data.decode import decode_square
from zfjax.experiments.exploring.explorer import Explorer
from zfjax.experiments.exploring.view import read, unpacked

# Gradio and what it stands on warn of each other.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
CUT = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
CAMERA = "--use-fake-device-for-media-stream"
READY = ".zx-maps button"
EXPECTED = ("422", "AbortError", "Unexpected error Connect")  # refused files; streams that a reload breaks off


@pytest.fixture(scope="module")
def explorer():
    if importlib.util.find_spec("gradio") is None:
        missing("gradio is not installed")
    return explore_sites.explorer()


@pytest.fixture(scope="module")
def served(explorer):
    with explore_sites.served(explorer, megabytes=4) as page:
        yield page


@pytest.fixture(scope="module")
def address(served):
    return served.address


@pytest.fixture(scope="module")
def browser():
    with chromium(CUT, CAMERA) as launched:
        yield launched


@pytest.fixture
def open_page(browser, served, address):
    """Opens pages; at the end none had an error or a dialog, asked anybody else, knew a path here, or kept growing."""
    wrong, finished = [], []
    with contextlib.ExitStack() as stack:

        def opened(link="", viewport=DESK, ready=READY, **options):
            page = stack.enter_context(browser.new_context(viewport=viewport, **options)).new_page()
            page.on(
                "console",
                lambda message: (
                    message.type == "error"
                    and not any(word in message.text for word in EXPECTED)
                    and wrong.append(message.text)
                ),
            )
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
            page.on("request", lambda one: one.url.startswith((address, "data:", "blob:")) or wrong.append(one.url))
            # Only what is finished: the text of a stream that is open would be waited for without end.
            page.on("requestfinished", lambda request: finished.append(request))
            page.goto(f"{address}?{link}")
            page.wait_for_selector(ready)
            return page

        yield opened
        places = {
            str(pathlib.Path.home()),
            str(pathlib.Path(__file__).parents[1]),
            sys.prefix,
            f"{tempfile.gettempdir()}/",
        }
        for request in finished:
            if request.resource_type in ("document", "fetch", "xhr"):
                with contextlib.suppress(Exception):  # of a page that was left, some have no body any more
                    text = request.response().text()
                    wrong.extend((request.url, place) for place in places if place in text)
        assert not wrong
    tabs = served.blocks.app.state_holder.session_data.values()
    assert {len(tab.blocks_config.blocks) for tab in tabs} == {len(served.blocks.blocks)}


def map_of(page):
    return page.locator("h3", has_text="Map ").first.inner_text()


def pressed(page, within):
    return page.locator(f"{within} [aria-pressed=true]")


def jpeg(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    return file.getvalue()


def upload(page, content, name="photo.jpg"):
    page.locator("input[type=file]").set_input_files(
        {"name": name, "mimeType": "application/octet-stream", "buffer": content}
    )


def test_clicks_keys_brush_and_lens(open_page):
    page = open_page("picture=2&layer=relu2")
    other = page.locator(".zx-maps button").nth(3)
    unit = other.get_attribute("data-map")
    other.click()
    page.wait_for_selector(f"h3:has-text('Map {unit} of')")
    page.wait_for_selector(f"h3:has-text('excite map {unit} most'), p:has-text('excites map {unit}.')")
    assert f"map={unit}&" in href(page) + "&"
    assert pressed(page, ".zx-maps").get_attribute("data-map") == unit
    # Keys walk through the maps, and the focus stays where it is.
    page.keyboard.press("ArrowRight")
    after = page.evaluate("document.activeElement.dataset.map")
    assert after != unit
    page.keyboard.press("Enter")
    page.wait_for_selector(f"h3:has-text('Map {after} of')")
    # What looks at a pixel, by mouse and by keys.
    stage = page.locator(".zx-stage")
    box = stage.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.75)
    page.wait_for_function("location.search.includes('row=36&column=12')")
    page.wait_for_selector("h3:has-text('what looks at the clicked pixel first')")
    stage.focus()
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_function("location.search.includes('column=13') && !location.search.includes('row=36')")
    # The brush, and the lens of another class.
    page.get_by_label("paints gray").check()
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 120, box["y"] + 60, steps=6)
    page.mouse.up()
    page.wait_for_selector("figcaption:has-text('before the brush')")
    assert "before:" in page.locator(".zx-classes").inner_text()
    label = page.locator(".zx-classes button").nth(2)
    number = label.get_attribute("data-label")
    label.click()
    page.wait_for_function("n => location.search.includes(`class=${n}`)", arg=number)
    page.locator("#zx-lens input").click()
    page.get_by_role("option", name="saliency", exact=True).click()
    page.wait_for_selector("h3:has-text('saliency of')")
    # The link brings all of it back, here and in another window.
    link, seen = href(page).partition("?")[2], page.locator("main, .gradio-container").first.inner_text()
    page.reload()
    page.wait_for_selector("h3:has-text('saliency of')")
    assert href(page).endswith(link)
    again = open_page(link, ready="h3:has-text('saliency of')")
    assert map_of(again) == map_of(page)
    assert map_of(page) in seen
    assert pressed(again, ".zx-classes").get_attribute("data-label") == number
    assert again.locator(".zx-stage img").get_attribute("src") == page.locator(".zx-stage img").get_attribute("src")
    cross = again.locator(".zx-cross")
    assert cross.is_visible()
    assert "left: 28.125%" in cross.get_attribute("style")  # of column 13 of 48
    again.get_by_role("button", name="Forget the clicked pixel").click()
    again.wait_for_selector("h3:has-text('strongest first')")
    assert "column=" not in href(again)
    again.wait_for_selector(".zx-cross", state="hidden")


def test_a_photograph_is_seen_as_the_net_gets_it(open_page, explorer, tmp_path):
    """Rotated by EXIF; then its files, of which the numbers hold the very pixels."""
    page = open_page()
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = jpeg(np.random.default_rng(3).integers(0, 256, (60, 90, 3), np.uint8), exif=exif)
    upload(page, photo)
    page.wait_for_function("location.search.includes('picture=u')")
    page.wait_for_selector("figcaption:has-text('your picture')")
    for kind in ("png", "npz", "py"):
        with page.expect_download() as started:
            page.locator(f".zx-save a[href^='save.{kind}']").click()
        started.value.save_as(tmp_path / f"view.{kind}")
    with np.load(tmp_path / "view.npz") as saved:
        assert np.array_equal(saved["square"], decode_square(photo, SIDE))
    with Image.open(tmp_path / "view.png") as picture:
        assert picture.size[0] > 500
    assert "zfjax.backproject" in (tmp_path / "view.py").read_text()


def test_a_picture_is_dropped_pasted_or_of_the_camera(open_page):
    page = open_page("picture=1&layer=relu2&row=20&column=20", permissions=["camera"])
    photo = jpeg(np.random.default_rng(9).integers(0, 256, (60, 60, 3), np.uint8))
    for event in ("drop", "paste"):
        before = href(page)
        page.evaluate(
            """([event, bytes]) => {
              const held = new DataTransfer();
              held.items.add(new File([new Uint8Array(bytes)], 'photo.jpg', { type: 'image/jpeg' }));
              document.body.dispatchEvent(event === 'drop'
                ? new DragEvent(event, { bubbles: true, cancelable: true, dataTransfer: held })
                : new ClipboardEvent(event, { bubbles: true, clipboardData: held }));
            }""",
            [event, list(photo if event == "drop" else jpeg(np.zeros((50, 50, 3), np.uint8)))],
        )
        page.wait_for_function("before => location.href != before && location.search.includes('picture=u')", arg=before)
    assert page.locator(".zx-cross").is_hidden()  # it was of the picture before
    before = href(page)
    page.get_by_role("button", name="Use the camera").click()
    page.wait_for_function("document.querySelector('dialog video').videoWidth > 0")
    page.get_by_role("button", name="Take it").click()
    page.wait_for_function("before => location.href != before", arg=before)
    assert page.evaluate("document.querySelector('dialog video').srcObject === null")


def test_odd_files(open_page):
    """A broken one, one too large, a huge photograph, an animation, and an upload that names a script."""
    page = open_page()
    noise = np.random.default_rng(4).integers(0, 256, (300, 400, 3), np.uint8)
    note = page.locator(".zx-take .zx-note")
    upload(page, jpeg(noise)[:3000], "<img src=x onerror=alert(4)>.jpg")
    page.wait_for_selector(".zx-take .zx-note:has-text('is missing')")
    assert note.inner_text().startswith("cannot read the image ")
    upload(page, bytes(5_000_000), "large.jpg")
    page.wait_for_selector(".zx-note:has-text('large.jpg: it has more than 4 MB')")
    frames = [Image.fromarray(noise[:, :, 0]), Image.fromarray(255 - noise[:, :, 0])]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=50)
    upload(page, file.getvalue(), "moves.gif")
    page.wait_for_function("location.search.includes('picture=u')")
    before = href(page)
    large = io.BytesIO()
    Image.new("L", (12000, 9000), 90).save(large, "JPEG", quality=20)
    upload(page, large.getvalue(), "huge.jpg")
    page.wait_for_function("before => location.href != before", arg=before)
    assert note.inner_text() == ""


def test_two_tabs_and_a_reload_in_the_middle(open_page):
    one, two = open_page("picture=1&layer=relu3"), open_page("picture=4&layer=relu4")
    for turn in range(3):
        for page in (one, two):
            page.locator(".zx-maps button").nth(turn + 1).click()
    for page in (one, two):
        page.wait_for_function("document.querySelector('.zx-maps [aria-pressed=true]') !== null")
        unit = pressed(page, ".zx-maps").get_attribute("data-map")
        page.wait_for_selector(f"h3:has-text('Map {unit} of')")
    assert "picture=1&layer=relu3" in href(one)
    assert "picture=4&layer=relu4" in href(two)
    one.locator("#zx-layer input").nth(1).check()
    one.reload()
    one.wait_for_selector(READY)
    assert "picture=1&" in href(one)


def test_clicks_that_come_faster_than_answers_all_count(open_page):
    """Of different kinds, all made before the first answer."""
    page = open_page("picture=5&layer=relu2")
    page.get_by_label("paints gray").check()
    unit = page.locator(".zx-maps button").nth(2).get_attribute("data-map")
    label = page.locator(".zx-classes button").nth(1).get_attribute("data-label")
    page.evaluate(
        """([unit, label]) => {
          document.querySelector(`.zx-maps [data-map="${unit}"]`).click();
          document.querySelector(`.zx-classes [data-label="${label}"]`).click();
          const stage = document.querySelector('.zx-stage');
          for (const key of [' ', 'ArrowUp', 'ArrowUp', 'ArrowUp', 'ArrowUp', 'ArrowUp', ' '])
            stage.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
        }""",
        [unit, label],
    )
    for _ in range(50):
        view = read(href(page).partition("?")[2])
        found = view.unit, view.label, unpacked(view.painted).sum()
        if found == (int(unit), int(label), 32):  # two dabs of 4 by 4 cells
            break
        page.wait_for_timeout(100)
    assert found == (int(unit), int(label), 32)
    page.wait_for_selector(f'.zx-classes [data-label="{label}"][aria-pressed=true]')  # the address is shown first
    page.wait_for_selector(f'.zx-maps [data-map="{unit}"][aria-pressed=true]')
    assert page.locator(".zx-classes [aria-pressed=true], .zx-maps [aria-pressed=true]").count() == 2
    page.wait_for_selector(f"h3:has-text('Map {unit} of')")


def test_two_pictures_beside_each_other(open_page):
    page = open_page("picture=2&layer=relu2")
    first = page.locator(".zx-stage img").get_attribute("src")
    page.get_by_role("button", name="Put this picture beside").click()
    page.wait_for_function("location.search.includes('beside=2')")
    page.get_by_label("by number").fill("7")
    page.get_by_label("by number").press("Enter")
    page.wait_for_function("location.search.includes('picture=7&beside=2')")
    figures = page.locator("#zx-pictures figure")
    assert [text.partition(",")[0] for text in figures.locator("figcaption").all_inner_texts()] == [
        "picture 7",
        "picture 2",
    ]
    assert figures.nth(1).locator("img").get_attribute("src") == first
    assert page.locator(".zx-classes small").count() == 4
    page.get_by_role("button", name="Nothing beside").click()
    page.wait_for_function("!location.search.includes('beside')")
    assert figures.count() == 1
    assert page.locator(".zx-classes small").count() == 0


def test_the_atlas_links_into_the_page_and_back(open_page, explorer, browser, tmp_path):
    with explore_sites.served(explorer, atlas=str(atlas_sites.write(tmp_path))) as other:
        there, page = other.address, browser.new_page()
        # As if the page were where `zfjax explore` is by default, which other programs may be.
        page.context.route(
            f"{site.EXPLORE_AT}**",
            lambda route: route.fulfill(
                status=302, headers={"Location": route.request.url.replace(site.EXPLORE_AT, there)}
            ),
        )
        page.goto(there)
        page.get_by_role("link", name="the atlas of the run").click()
        page.goto(f"{there}atlas/{site.map_path('relu1', 2)}")
        page.get_by_role("link", name="this map in the live page").click()
        page.wait_for_selector("h3:has-text('Map 2 of layer 1')")
        assert href(page).startswith(there)
        with page.expect_popup() as back:
            page.get_by_role("link", name="Its page in the atlas").click()
        assert href(back.value) == f"{there}atlas/{site.map_path('relu1', 2)}"
        assert back.value.locator("h1").inner_text().startswith("Map 2 of layer 1")
        page.context.close()


def test_a_slow_lens_stops_nobody(open_page, explorer, monkeypatch):
    go, lensed = threading.Event(), explorer.lensed
    monkeypatch.setattr(explorer, "lensed", lambda view: go.wait(60) and lensed(view))
    page = open_page("picture=6&layer=relu2&lens=saliency")
    for number in (2, 4):
        button = page.locator(".zx-maps button").nth(number)
        button.click()
        page.wait_for_selector(f"h3:has-text('Map {button.get_attribute('data-map')} of')")
    assert not page.locator("h3:has-text('saliency of')").count()
    go.set()
    page.wait_for_selector("h3:has-text('saliency of')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_in_light_and_dark(open_page, scheme):
    page = open_page("picture=3&layer=relu2", viewport=PHONE, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    # A finger on the picture scrolls the page, unless it paints.
    touch = "getComputedStyle(document.querySelector('.zx-stage')).touchAction"
    assert page.evaluate(touch) == "pan-y"
    page.get_by_label("paints gray").check()
    assert page.evaluate(touch) == "none"
    shade = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).reduce((a, b) => a + +b, 0)")
    assert shade > 700 if scheme == "light" else shade < 100
    assert page.evaluate("[...document.images].every(image => image.alt)")
    assert page.evaluate("[...document.querySelectorAll('button')].every(b => b.innerText.trim() || b.ariaLabel)")


def test_names_are_text(open_page):
    page = open_page("layer=relu2&map=2")
    assert page.locator("p", has_text="overlaps most with").locator("bdi").inner_text() == explore_sites.NASTY[2]
    shown = page.locator(".zx-classes bdi").all_inner_texts()
    assert sorted(shown) == sorted(explore_sites.NASTY)
    assert page.locator(".zx-classes bdi *").count() == 0


def test_a_link_of_nothing_says_so_and_the_page_goes_on(open_page):
    page = open_page("layer=relu9", ready=".zx-note:has-text('relu9')")
    page.get_by_role("button", name="A random one").click()
    page.wait_for_selector(READY)


# The server, without a browser.


def asked(url, data=None, cookie="", **headers):
    """The status, the headers and the text of an answer."""
    request = urllib.request.Request(url, data, headers | ({"Cookie": cookie} if cookie else {}))
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read().decode(errors="replace")


def test_ways_that_the_page_does_not_use_are_closed(address):
    for way in ("gradio_api/upload", "gradio_api/file=/etc/passwd", "file=/etc/passwd", "gradio_api/component_server"):
        assert asked(f"{address}{way}", b"x" if "file=" not in way else None)[0] == 404, way
    status, _, text = asked(f"{address}save.exe?picture=0")
    assert status == 404
    assert asked(f"{address}save.png?picture=999")[::2] == (
        422,
        "picture 999: expected a number below 12, or one that you drop",
    )
    status, _, text = asked(f"{address}picture?name=..%2F..%2Fx.png", b"no picture")
    assert status == 422
    assert json.loads(text)["error"].startswith("cannot read the image x.png: ")


def test_no_page_from_elsewhere_reads_this_one_under_its_own_name(explorer, address):
    for name in ("127.0.0.1", "localhost:7860", "LOCALHOST", "[::1]:7860"):
        assert asked(f"{address}config", Host=name)[0] == 200, name
    for name in ("rebound.example", "127.0.0.1.example:7860", "localhost.example"):
        status, _, text = asked(f"{address}config", Host=name)
        assert (status, text[:36]) == (403, "zfjax explore is for this machine: o"), name
        assert asked(f"{address}picture?name=x", b"x", Host=name)[0] == 403
    with explore_sites.served(explorer, inline=None) as page:  # in a notebook, behind a proxy
        assert asked(f"{page.address}config", Host="notebook.example")[0] == 200


def test_the_server_asks_nobody(explorer, monkeypatch):
    hosts, look_up = set(), socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *args, **how: hosts.add(host) or look_up(host, *args, **how)
    )
    with explore_sites.served(explorer) as page:
        assert asked(page.address)[0] == 200
    assert hosts <= {"127.0.0.1", "localhost", None}


def test_uploads_wait_for_each_other_and_none_is_lost(address, explorer, monkeypatch):
    from zfjax.explore import page

    at_once, most, lock = [0], [0], threading.Lock()
    add = explorer.add

    def slowly(*args):
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        try:
            return add(*args)
        finally:
            with lock:
                at_once[0] -= 1

    monkeypatch.setattr(explorer, "add", slowly)
    noise = np.random.default_rng(6).integers(0, 256, (20, 400, 300, 3), np.uint8)
    found = [None] * len(noise)

    def send(number):
        found[number] = asked(f"{address}picture?name=x", jpeg(noise[number]))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(len(noise))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({json.loads(text)["picture"] for _, _, text in found}) == len(noise)
    assert most[0] <= page.AT_ONCE


def test_elsewhere_wants_a_token(explorer):
    with explore_sites.served(explorer, host="0.0.0.0") as page:
        local = page.address.replace("0.0.0.0", "127.0.0.1")
        plain, _, token = local.partition("?token=")
        assert len(token) > 20
        for way in ("", "?token=", "?token=x", "config", "save.png?picture=0", "gradio_api/info"):
            assert asked(f"{plain}{way}")[0] == 401, way
        status, headers, _ = asked(local)
        assert status == 200
        cookie = headers["Set-Cookie"].partition(";")[0]
        assert "HttpOnly" in headers["Set-Cookie"]
        assert "SameSite=Strict" in headers["Set-Cookie"]
        assert asked(f"{plain}save.py?picture=0&layer=relu2", cookie=cookie)[0] == 200
        assert asked(f"{plain}save.py?picture=0&layer=relu2", cookie=cookie + "x")[0] == 401


NETS = """
import jax
import jax.numpy as jnp
import zfjax

def mine():
    def net(images):
        kernel = jnp.ones((3, 3, 3, 2))
        return jax.lax.conv_general_dilated(images, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    return zfjax.Model(net, (1, 16, 16, 3), preprocess=lambda squares: squares.astype(jnp.float32) / 255)
"""
QUICKLY = """
import sys
from zfjax.console import command, signals
signals.listen()
from zfjax.experiments.exploring.explorer import Explorer
from zfjax.explore import main, opening
opening.opened = lambda subject, *_: Explorer(subject)  # compiled when it is asked
command.execute(main)
"""


def test_ctrl_c_ends_the_command(tmp_path, explorer):
    run = tiny_runs.untrained(tiny_runs.make_folder(tmp_path / "photos", per_class=4), tmp_path / "run")
    command = [sys.executable, "-c", QUICKLY, f"--workdir={run}", "--nobrowser", f"--port={free_port()}"]
    with tiny_runs.start(command) as process:
        line = process.stdout.readline()
        assert line.startswith("open http://127.0.0.1:"), line + process.stderr.read()
        at = line.split()[1]
        assert asked(at)[0] == 200
        link = "save.py?picture=0&layer=relu2&map=1"
        status, _, text = asked(f"{at}{link}")
        assert (status, "zfjax.open_run(sys.argv[1]).val" in text) == (200, True)
        taken = tiny_runs.run([*command[:-1], f"--port={at.rstrip('/').rpartition(':')[2]}"])
        assert taken.returncode == 2
        assert "cannot listen at 127.0.0.1:" in taken.stderr
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGINT
    assert "Traceback" not in said
    assert str(tmp_path) not in rest


def test_the_command_takes_a_function_in_a_file(capsys, monkeypatch, tmp_path, explorer):
    from zfjax.explore import opening, serving

    (tmp_path / "nets.py").write_text(NETS)
    serve, answers = serving.serve, []

    def served(*args, **kwargs):
        page = serve(*args, **kwargs)
        noise = np.random.default_rng(8).integers(0, 256, (30, 40, 3), np.uint8)
        with contextlib.closing(page):
            picture = json.loads(asked(f"{page.address}picture?name=x", jpeg(noise))[2])["picture"]
            answers.extend((asked(page.address), asked(f"{page.address}save.py?picture={picture}&layer=conv1")))
        return page

    verb = importlib.import_module("zfjax.explore")  # `zfjax.explore` is the function
    monkeypatch.setattr(verb, "threading", types.SimpleNamespace(Event=lambda: types.SimpleNamespace(wait=list)))
    monkeypatch.setattr(serving, "serve", served)
    monkeypatch.setattr(opening, "opened", lambda subject, *_: Explorer(subject))  # compiled when it is asked
    assert command.run(verb.main, ["explore", f"--model={tmp_path}/nets.py:mine", "--nobrowser"]) == 0
    assert capsys.readouterr().out.startswith("open http://127.0.0.1:")
    assert [status for status, _, _ in answers] == [200, 200]
    assert "model_given(sys.argv[1])" in answers[1][2]


def free_port():
    with contextlib.closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_a_notebook_calls_the_function(explorer, monkeypatch):
    from zfjax.explore import opening

    seen = []
    monkeypatch.setattr(opening, "opened", lambda subject, *args, **kwargs: seen.append(subject) or explorer)
    page = zfjax.explore(explorer.subject.model, np.zeros((2, SIDE, SIDE, 3), np.uint8))
    try:
        assert asked(page.address)[0] == 200
    finally:
        page.close()
    zfjax.explore(explorer.subject, inline=False).close()
    assert [len(one.pictures) for one in seen] == [2, 12]
