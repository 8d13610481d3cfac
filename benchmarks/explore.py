"""How long clicks take on the live page, in Chromium; and many users at once.

    python benchmarks/explore.py --workdir=runs/shapes
    python benchmarks/explore.py --full               # a full-width ZFNet at 224 px, with random weights
    python benchmarks/explore.py --workdir=runs/shapes --users=50 --minutes=5

Prints p50 and p95 in seconds: from a click on a map until its projection is shown and until its nine patches are, from
the end of a stroke until classes and maps are those of the painted picture; and from a click on the picture until maps
are in the order of what looks there. It needs `zfjax[explore]` and playwright.
"""

import argparse
import concurrent.futures
import io
import json
import secrets
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from PIL import Image

import zfjax
from zfjax.explore import opening, serving
from zfjax.models.nets import NetModel

ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run")


def subject_of(args):
    """A run's pictures, or a full-width ZFNet with random weights and noise."""
    if not args.full:
        return zfjax.open_run(args.workdir).val
    net = zfjax.zfnet(1000)
    variables = net.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    squares = np.random.default_rng(0).integers(0, 256, (32, 224, 224, 3), np.uint8)
    model = NetModel(net, variables, preprocess=lambda squares: jnp.asarray(squares, jnp.float32) - 128)
    return zfjax.look(model, squares).val


def report(what, seconds):
    """One line."""
    p50, p95 = np.quantile(seconds, (0.5, 0.95))
    print(f"{what}: p50 {p50:.3f} s, p95 {p95:.3f} s over {len(seconds)}", flush=True)


def clicks(address, count, layers):
    """Click through maps and paint, as fast as answers come."""
    from playwright import sync_api

    with sync_api.sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        map_click, patches, pixel, brush = [], [], [], []
        shown = "n => [...document.querySelectorAll('h3')].some(h => h.textContent.startsWith(`Map ${n} of`))"
        nine = (
            "n => [...document.querySelectorAll('h3, p')].some(h => h.textContent.includes(`excite map ${n} most`)"
            " || h.textContent.includes(`excites map ${n}.`))"
        )
        rng = np.random.default_rng(0)
        for number in range(count):
            if number % (count // (2 * len(layers)) or 1) == 0:  # another picture and layer, not counted
                layer = layers[(2 * number * len(layers) // count) % len(layers)]
                page.goto(f"{address}?picture={number % 32}&layer={layer}")
                page.wait_for_selector(".zx-nine, p:has-text('excites map')", timeout=60_000)
                page.wait_for_timeout(300)
            unit = page.evaluate("document.querySelector('.zx-maps [aria-pressed=true]').dataset.map")
            others = page.locator(f".zx-maps button:not([data-map='{unit}'])")
            button = others.nth(int(rng.integers(min(others.count(), 60))))
            unit = button.get_attribute("data-map")
            button.scroll_into_view_if_needed()
            start = time.perf_counter()
            button.dispatch_event("click")
            page.wait_for_function(shown, arg=unit, polling=5)
            map_click.append(time.perf_counter() - start)
            page.wait_for_function(nine, arg=unit, polling=5)
            patches.append(time.perf_counter() - start)
        report("click on a map, until its projection", map_click)
        report("click on a map, until its nine patches", patches)
        box = page.locator(".zx-stage").bounding_box()
        for _ in range(count // 4):
            before = page.url
            start = time.perf_counter()
            page.mouse.click(box["x"] + rng.uniform(5, box["width"] - 5), box["y"] + rng.uniform(5, box["height"] - 5))
            page.wait_for_function("before => location.href != before", arg=before, polling=5)
            pixel.append(time.perf_counter() - start)
        report("click on the picture", pixel)
        page.get_by_label("paints gray").check()
        for number in range(count):
            if number % 12 == 0:
                page.goto(f"{address}?picture={number % 32}&layer={layers[-1]}")
                page.wait_for_selector(".zx-maps button")
                page.wait_for_timeout(500)
                page.get_by_label("paints gray").check()
            box, before = page.locator(".zx-stage").bounding_box(), page.url
            page.mouse.move(box["x"] + 10 + 15 * (number % 12), box["y"] + 30 + 10 * (number % 12))
            page.mouse.down()
            page.mouse.move(box["x"] + 20 + 15 * (number % 12), box["y"] + 40 + 10 * (number % 12), steps=3)
            start = time.perf_counter()
            page.mouse.up()
            page.wait_for_function("before => location.href != before", arg=before, polling=5)
            brush.append(time.perf_counter() - start)
        report("stroke of the brush", brush)
        browser.close()


class Client:
    """What a browser's tab does: it joins the queue, and reads its answers from a stream."""

    def __init__(self, address):
        import httpx

        self.http = httpx.Client(base_url=address, timeout=180)
        self.session = secrets.token_hex(6)
        config = self.http.get("config").raise_for_status().json()
        parts = {part["props"].get("elem_id"): part["id"] for part in config["components"]}
        self.events = {}
        for name in ("zx-take", "zx-maps"):
            targets = ([parts[name], "select"], (parts[name], "select"))
            self.events[name] = next(
                one["id"] for one in config["dependencies"] if any(list(t) in one["targets"] for t in targets)
            )

    def ask(self, part, link, data):
        """The view's link after an event of a part of the page."""
        body = {"data": [link], "fn_index": self.events[part], "session_hash": self.session, "event_data": data}
        self.http.post("gradio_api/queue/join", json=body).raise_for_status()
        with self.http.stream("GET", "gradio_api/queue/data", params={"session_hash": self.session}) as answers:
            for line in answers.iter_lines():
                if line.startswith("data:"):
                    message = json.loads(line[5:])
                    if message["msg"] == "process_completed":
                        assert message["success"], message
                        return message["output"]["data"][0]
        raise AssertionError("an answer was lost")

    def upload(self, noise):
        """What the page calls a picture that is sent to it."""
        file = io.BytesIO()
        Image.fromarray(noise).save(file, "JPEG")
        answer = self.http.post("picture?name=x.jpg", content=file.getvalue())
        return answer.raise_for_status().json()["picture"]


def users(address, count, minutes):
    """Many clients at once, each with pictures of its own and clicks at random."""
    end, process, sizes = time.monotonic() + 60 * minutes, psutil.Process(), []

    def one(number):
        client, rng, waits = Client(address), np.random.default_rng(number), []
        while time.monotonic() < end:
            picture = client.upload(rng.integers(0, 256, (200, 300, 3), np.uint8))
            link = client.ask("zx-take", "", {"picture": picture})
            for _ in range(6):
                unit = int(rng.integers(8))
                start = time.perf_counter()
                link = client.ask("zx-maps", link, {"map": str(unit)})
                waits.append(time.perf_counter() - start)
                assert f"picture={picture}" in link, link
                assert f"map={unit}&" in f"{link}&", link
                time.sleep(rng.exponential(3))
        return waits

    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        at_work = [pool.submit(one, number) for number in range(count)]
        while time.monotonic() < end:
            time.sleep(min(10, max(0.1, end - time.monotonic())))
            sizes.append(process.memory_info().rss / 1e6)
            print(f"{sizes[-1]:,.0f} MB", flush=True)
        found = [one.result() for one in at_work]
    report(f"{count} users, none of whose answers was lost: a click on a map", np.concatenate(found))
    print(f"memory: {sizes[len(sizes) // 3]:,.0f} MB after a third of the time, {sizes[-1]:,.0f} MB at the end")


def main():
    """Serve a page in this process, and use it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--clicks", type=int, default=200)
    parser.add_argument("--users", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=5)
    args = parser.parse_args()
    subject = subject_of(args)
    start = time.perf_counter()
    explorer = opening.opened(subject, (), batch_size=64 if args.workdir else 8)
    print(f"ready after {time.perf_counter() - start:.0f} s", flush=True)
    page = serving.serve(explorer, "benchmark")
    layers = list(explorer.known)
    if args.users:
        users(page.address, args.users, args.minutes)
    else:
        clicks(page.address, args.clicks, layers)
    page.close()


if __name__ == "__main__":
    main()
