"""The atlas: pages that hang together, names that stay text, folders that are not one's own left alone."""

import functools
import io
import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import atlas_sites
import jax
import numpy as np
import pytest
import tiny_runs
from atlas_sites import CLASSES, DEAD, FEW, MANY, Page
from PIL import Image

import zfjax
from zfjax import atlas, train
from zfjax.atlas import build, site, views
from zfjax.atlas import features as atlas_features
from zfjax.atlas.pictures import pictures
from zfjax.console import command
from zfjax.console.errors import UserError
from zfjax.console.hold import InUse
from zfjax.models.display import Display
from zfjax.models.nets import NetModel
from zfjax.runs.imported import run_config, write_run
from zfjax.weights.preprocessing import Preprocessing
from zfjax.weights.pretrained import Loaded

TEMPLATES = tuple((Path(atlas.__file__).parent / "templates").iterdir())


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    return atlas_sites.write(tmp_path_factory.mktemp("site"))


def check(folder: Path) -> dict[Path, Page]:
    """All pages of a site, whose links, images and names have been looked at."""
    pages = {path.resolve(): Page(path) for path in folder.rglob("*.html")}
    for path, page in pages.items():
        assert page.of("html")[0]["lang"] == "en"
        assert len(page.of("title")) - len(page.of("rect")) == len(page.of("h1")) == 1
        assert len(page.ids) == len(set(page.ids)), path
        for file, fragment in page.targets:
            assert file.is_file(), f"{path}: {file}"
            if fragment:
                assert fragment in pages[file].ids, f"{path}: #{fragment}"
        for image in page.of("img"):
            assert len(image["alt"]) > 10
            assert image["loading"] == "lazy"
            width, height = size_of((path.parent / image["src"]).resolve())
            assert abs(width / height - int(image["width"]) / int(image["height"])) < 0.02
    return pages


@functools.cache
def size_of(picture: Path) -> tuple[int, int]:
    with Image.open(picture) as opened:
        return opened.size


def reachable(pages: dict[Path, Page], start: Path) -> set[Path]:
    seen, new = set(), {start.resolve()}
    while new:
        seen |= new
        new = {file for path in new for file, _ in pages[path].targets if file in pages} - seen
    return seen


def test_all_links_and_images_are_there_and_every_page_is_reached(made_up):
    pages = check(made_up)
    assert len(pages) == 1 + 2 + 3 + MANY + len(CLASSES) + 1
    assert reachable(pages, made_up / "index.html") == set(pages)
    for path in pages:
        assert path.stat().st_size < (1000 * MANY if path.parent.name == "layer" else 24_000), path


def test_names_stay_text(made_up):
    """No tag, attribute or file comes from a name: the tags of all pages are the templates' own."""
    ours = {tag for path in TEMPLATES for tag, _ in Page(path).tags}
    assert {"b", "bdi"} < ours
    for path in made_up.rglob("*.html"):
        page = Page(path)
        assert len(page.of("script")) == 2, path
        assert {tag for tag, _ in page.tags} <= ours, path
        # Bold are the word Atlas and the numbers of maps on cards; on the first page the cards of classes, too.
        cards = [attributes for attributes in page.of("a") if attributes.get("class") == "card"]
        assert len(page.of("b")) == 1 + len(cards), path
        for tag, attributes in page.tags:
            assert not [name for name in attributes if name.startswith("on")], (path, tag)
    for label, name in enumerate(CLASSES):
        page = Page(made_up / site.class_path(label))
        assert name in page.text  # whole, as one piece of text
    page = Page(made_up / site.map_path("relu4", 17))
    alts = " ".join(image["alt"] for image in page.of("img"))
    what = atlas_sites.survey()
    for one in views.winners(what, what.layers[1].top, 17):
        assert f"of class {CLASSES[one.label]}" in alts
        assert what.names[what.layers[1].top.images[17, one.rank - 1]] in page.text
    names = {path.relative_to(made_up).as_posix() for path in made_up.rglob("*")}
    assert all(re.fullmatch(r"[\w./-]+", name) for name in names)


def test_the_search_index_is_ascii_json_without_markup(made_up):
    script = (made_up / "search.js").read_bytes().decode("ascii")
    assert not set("<>&") & set(script)
    index = json.loads(re.fullmatch(r"const ATLAS = (.*);\n", script)[1])
    assert index["classes"] == list(CLASSES)
    assert index["layers"] == [["relu1", "layer 1 (relu1)", 3], ["relu4", "layer 4 (relu4)", MANY]]
    assert index["excited"][4] == []  # no images
    for by_class in index["excited"]:
        assert all(0 <= number < index["layers"][layer][2] for layer, number in by_class)


def test_maps_that_never_fire_or_for_few_images_say_so(made_up):
    dead, few = (Page(made_up / site.map_path("relu1", number)) for number in (DEAD, FEW))
    assert "never fires" in "".join(dead.text)
    assert not dead.of("img")
    assert not dead.of("svg")
    assert len(few.of("figure")) == 2 * 4  # where it fires most, and where it matters most
    assert len(few.of("img")) == 2 * 8
    assert "It fires for no other" in "".join(few.text)
    assert "no image of this class" in "".join(Page(made_up / site.class_path(4)).text)


def test_numbers_on_a_map_page_are_those_of_the_survey(made_up):
    what = atlas_sites.survey()
    layer, number = what.layers[1], 5
    page = Page(made_up / site.map_path(layer.name, number))
    histogram = views.histogram(layer.responses, number)
    assert [bar.cells for bar in histogram.bars] == layer.responses.histogram[number].tolist()
    heights = np.array([bar.height for bar in histogram.bars])
    cells = layer.responses.histogram[number]
    assert (np.argsort(heights, kind="stable") == np.argsort(cells, kind="stable")).all()
    assert 0 < heights.max() <= 1
    listed = [one.label for one in views.exciting(layer, number)]
    means = layer.responses.excitation[number]
    assert listed == [label for label in np.argsort(-means) if means[label] > 0]
    links = [attributes["href"] for attributes in page.of("a") if "/class/" in attributes["href"]]
    assert links[-len(listed) :] == [f"../../class/{label}.html" for label in listed]


def test_a_class_lists_the_maps_that_prefer_it():
    what = atlas_sites.survey()
    contrast = what.layers[1].responses.contrast
    found = views.excited(what.layers[1], 3, contrast)
    assert [one.map for one in found] == np.argsort(-contrast[:, 3])[: len(found)].tolist()
    assert all(one.mean > one.others for one in found)
    assert views.excited(what.layers[1], 4, contrast) == []
    shown = views.showpieces(contrast, 4)
    assert len({int(contrast[number].argmax()) for number in shown}) == 4


@pytest.mark.parametrize(
    ("side", "enlarged", "smaller"), [(7, 7, False), (27, 2, False), (96, 1, False), (150, 1, True)]
)
def test_pictures_hold_projections_and_patches(side, enlarged, smaller):
    layer = atlas_sites.survey().layers[1]
    found = atlas_sites.gallery_of(layer, side, range(2))
    one, two = pictures(found._replace(images=found.images + 100))
    sheet = one.sheet
    assert (one.map, two.map, sheet.tile_width, sheet.tile_height) == (0, 1, side * enlarged, side * enlarged)
    picture = np.asarray(_opened(one.full), np.float32)
    assert picture.shape == (sheet.height, sheet.width, 4)
    assert (one.thumbnail is not None) == smaller
    if one.thumbnail:
        assert _opened(one.thumbnail).width < sheet.width
    limit = np.percentile(np.abs(found.projections[0]), 99.5, axis=(1, 2, 3), keepdims=True)
    halves = np.clip(0.5 + found.projections[0] / limit / 2, 0, 1) * 255, np.clip(found.images[0] + 100, 0, 255)
    for half, tiles in enumerate(halves):
        for image, tile in enumerate(tiles):
            top, left = sheet.top(image // 3), sheet.left(3 * half + image % 3)
            seen = picture[top : top + sheet.tile_height, left : left + sheet.tile_width, :3]
            expected = tile.repeat(enlarged, axis=0).repeat(enlarged, axis=1)
            assert np.abs(seen - expected).mean() < 2, (half, image)
            others = [other for i, other in enumerate((*halves[0], *halves[1])) if i != 9 * half + image]
            assert min(np.abs(tile - other).mean() for other in others) > 2  # or the above would say nothing
    assert picture[..., 3].min() == 0  # between tiles


def test_pictures_leave_out_what_does_not_fire():
    layer = atlas_sites.survey().layers[0]
    dead, few = list(pictures(atlas_sites.gallery_of(layer, 7, range(3))))[1:]
    sheet = few.sheet
    assert not np.asarray(_opened(dead.full))[..., 3].any()
    shown = np.asarray(_opened(few.full))[..., 3]
    assert shown[sheet.top(1), sheet.left(0)]
    assert not shown[sheet.top(1), sheet.left(1)]
    assert not shown[sheet.top(2), sheet.left(3)]


def _opened(content):
    return Image.open(io.BytesIO(content)).convert("RGBA")


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0, "0 %"),
        (1, "100 %"),
        (0.5, "50 %"),
        (0.9675, "96.8 %"),
        (0.999999, "99.99 %"),
        (1e-7, "0.01 %"),
        (0.1, "10 %"),
    ],
)
def test_shares_are_not_rounded_to_all_or_nothing(share, said):
    assert site._percent(share) == said


def test_only_atlases_and_empty_folders_are_replaced(tmp_path):
    build.require_free(tmp_path / "new")
    build.require_free(tmp_path)
    (tmp_path / ".DS_Store").touch()
    build.require_free(tmp_path)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserError, match="holds files but no atlas"):
        build.require_free(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        build.require_free(tmp_path / "mine.txt")
    for wrong in ("[]", "{}", "no json", '{"files": 3}', '{"files": [[1]]}', '{"files": "mine.txt"}'):
        (tmp_path / build.MARK).write_text(wrong)
        with pytest.raises(UserError, match="holds files but no atlas"):
            build.require_free(tmp_path)
    (tmp_path / build.MARK).write_text(json.dumps({"files": ["index.html"]}))
    with pytest.raises(UserError, match=r"holds 'mine\.txt', which no atlas wrote"):
        build.require_free(tmp_path)
    (tmp_path / "mine.txt").rename(tmp_path / "index.html")
    (tmp_path / "map").mkdir()
    build.require_free(tmp_path)
    (tmp_path / "map" / "mine").symlink_to(tmp_path.parent)
    with pytest.raises(UserError, match=r"holds 'map/mine', which no atlas wrote"):
        build.require_free(tmp_path)


def test_a_folder_without_an_atlas_is_not_listed_to_its_bottom(monkeypatch, tmp_path):
    (tmp_path / "documents").mkdir()
    listed = []
    below = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda path, pattern: listed.append(path) or below(path, pattern))
    with pytest.raises(UserError, match="holds files but no atlas"):
        build.require_free(tmp_path)
    assert not listed


def test_folders_that_cannot_be_replaced_are_refused_at_once(monkeypatch, tmp_path):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match="is the current folder"):
        build.require_free(tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    build.require_free(tmp_path / "here")
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "here")
    with pytest.raises(UserError, match="is a mount point"):
        build.require_free(tmp_path / "here")


@pytest.fixture
def build_site(monkeypatch, tmp_path, unchecked):
    """Builds a small atlas in an `out` without a run: what is computed is made up, all else is as ever."""
    what = atlas_sites.survey(maps=4)
    net = zfjax.zfnet(2, width=0.02, image_size=48)
    model = NetModel(net, jax.jit(net.init)(jax.random.key(0), np.zeros((1, 48, 48, 3), np.float32)))
    display = Display(np.full((7, 7, 3), -100.0), np.eye(3))
    subject = SimpleNamespace(model=model, display=display)

    def given(out):
        splits = SimpleNamespace(val=subject)
        passes = tmp_path / "run" / "passes"
        return SimpleNamespace(
            out=out, dataset="shapes", data_dir="", precision="", passes=passes, splits=lambda: splits
        )

    monkeypatch.setattr(build.collect, "survey", lambda *_: what)
    monkeypatch.setattr(build, "projections", lambda val, found: atlas_sites.gallery_of(what.layers[0], 7, range(3)))
    monkeypatch.setattr(
        build.collect, "galleries", lambda val, layer, top: [atlas_sites.gallery_of(layer, 7, range(layer.maps))]
    )
    return lambda out, **more: build.build(given(out), ["relu1", "relu4"], 8, **more)


def test_each_map_has_a_picture_that_it_responds_to_where_they_are_asked_for(build_site, monkeypatch, tmp_path):
    """The net is a made-up one; three of its maps are found two at a time, and all pages get the same file."""
    net = zfjax.zfnet(2, width=0.02, image_size=96)
    model = NetModel(net, jax.jit(net.init)(jax.random.key(0), np.zeros((1, 96, 96, 3), np.float32)))
    images = 50 * jax.random.normal(jax.random.key(1), (6, 96, 96, 3))
    display = Display(np.full((96, 96, 3), -100.0, np.float32), np.eye(3, dtype=np.float32))
    val = SimpleNamespace(model=model, display=display, pictures=range(6), load=lambda numbers: images[numbers])
    monkeypatch.setattr(atlas_features, "_STEPS", 2)
    found = dict(atlas_features.features(SimpleNamespace(name="relu5", maps=3), val, 4))
    assert list(found) == [0, 1, 2]
    for file in found.values():
        wide = Image.open(io.BytesIO(file))
        assert (wide.mode, wide.size) == ("RGBA", (192 + site.FEATURE_GAP, 96))
        assert (np.asarray(wide)[:, :96, 3] == 255).all()
        assert np.asarray(wide)[:, -96:, 3].min() < 255
    assert atlas_features.can_have(SimpleNamespace(name="fc8"), val)

    monkeypatch.setattr(build, "features", lambda layer, *_: iter([(number, found[0]) for number in range(layer.maps)]))
    build_site(tmp_path / "without")
    assert not list((tmp_path / "without").rglob("*-feature.webp"))
    build_site(tmp_path / "site", with_features=True)
    pages = check(tmp_path / "site")
    of_maps = [page for path, page in pages.items() if path.parent.parent.name == "map"]
    assert len(of_maps) == 7
    for page in of_maps:
        assert sum(one["src"].endswith("-feature.webp") for one in page.of("img")) == 1


def test_a_second_build_into_one_folder_is_refused_and_disturbs_nothing(build_site, monkeypatch, tmp_path):
    out, galleries, refused = tmp_path / "site", build.collect.galleries, []

    def with_another(val, layer, top):
        with ThreadPoolExecutor() as threads:  # while the pictures of the first are written
            refused.append(threads.submit(build_site, out).exception())
        return galleries(val, layer, top)

    monkeypatch.setattr(build.collect, "galleries", with_another)
    assert "13 pictures" in build_site(out)
    assert [type(error) for error in refused] == [InUse] * 3
    assert len(check(out)) == 1 + 2 + 3 + 4 + len(CLASSES) + 1
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_a_folder_that_vanishes_is_an_error(build_site, monkeypatch, tmp_path):
    write = site.write

    def vanished(folder, *rest):
        shutil.rmtree(folder)
        return write(folder, *rest)

    monkeypatch.setattr(site, "write", vanished)
    with pytest.raises(UserError, match="cannot write"):
        build_site(tmp_path / "site")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_that_of_the_atlas(build_site, monkeypatch, tmp_path):
    """Whatever the error names: a file of the package that is copied, or one that is gone by then."""

    def fail(folder):
        raise OSError(28, "No space left on device", site.__file__, None, str(folder / "atlas.css"))

    monkeypatch.setattr(site, "_copy_static", fail)
    with pytest.raises(UserError, match=f"^cannot write {tmp_path / 'site'}: No space left on device$"):
        build_site(tmp_path / "site")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(5, "Input/output error")])
def test_what_is_stopped_while_it_is_put_in_place_leaves_the_old_atlas(build_site, monkeypatch, tmp_path, error):
    out = tmp_path / "site"
    build_site(out)
    before = contents(out)
    rename, names = Path.rename, []

    def stopped(path, target):
        names.append(path.name)
        if path.name == "new":
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else UserError):
        build_site(out)
    assert names == ["site", "new", "old"]
    assert contents(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_an_old_atlas_that_cannot_be_put_back_is_put_back_by_the_next_start(build_site, monkeypatch, tmp_path):
    """As after a kill between the two renames."""
    out = tmp_path / "site"
    build_site(out)
    before = contents(out)
    rename = Path.rename

    def stopped(path, target):
        if path.name != "site":
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stopped)
        with pytest.raises(KeyboardInterrupt):
            build_site(out)
    assert not out.exists()
    (aside,) = tmp_path.iterdir()
    assert contents(aside / "old") == before
    monkeypatch.setattr(site, "write", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build_site(out)
    assert contents(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_a_killed_build_is_cleared_away_by_the_next(build_site, tmp_path):
    left = tmp_path / ".site.draft"
    (left / "new" / "pictures").mkdir(parents=True)
    (left / "new" / "pictures" / "a.webp").write_bytes(b"half")
    build_site(tmp_path / "site")
    assert [path.name for path in tmp_path.iterdir()] == ["site"]
    left.mkdir()
    (left / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"\.site\.draft holds what no atlas wrote"):
        build_site(tmp_path / "site")
    assert (left / "mine.txt").read_text() == "mine"


def test_what_lies_beside_is_left_alone(build_site, tmp_path):
    beside = [tmp_path / name for name in (".site.part", ".site.old", ".site.new")]
    for folder in beside:
        folder.mkdir()
        (folder / "mine.txt").write_text("mine")
    build_site(tmp_path / "site")
    build_site(tmp_path / "site")
    assert [(folder / "mine.txt").read_text() for folder in beside] == ["mine"] * 3
    assert len(list(tmp_path.iterdir())) == 4


def test_the_folder_has_the_modes_of_any_other(build_site, tmp_path):
    (tmp_path / "any").mkdir()
    build_site(tmp_path / "site")
    assert (tmp_path / "site").stat().st_mode == (tmp_path / "any").stat().st_mode


def test_what_cannot_be_read_is_not_said_to_be_unwritable(build_site, monkeypatch, tmp_path):
    def broken(val, layer, top):
        raise OSError(5, "Input/output error", "photo.png")

    monkeypatch.setattr(build.collect, "galleries", broken)
    with pytest.raises(OSError, match=r"photo\.png"):
        build_site(tmp_path / "site")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file"):
        build_site(tmp_path / "file" / "site")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("out", "expected"),
    [("/", "expected a folder with a name"), ("a://b", "on this disk")],
)
def test_an_out_that_is_no_folder_is_named(build_site, out, expected):
    with pytest.raises(UserError, match=expected):
        build_site(out)


def negative_layer(excitation):
    """A layer with these means, before a ReLU."""
    layer = atlas_sites.survey(maps=len(excitation)).layers[1]
    return layer._replace(responses=layer.responses._replace(excitation=np.array(excitation)))


def test_means_below_zero_and_infinite_ones_have_bars_too():
    means = [[0.0, -4, -2, -2, 0, -3], [4.0, 2, -1, 0, 0, 0], [np.inf, 2, -np.inf, np.nan, 0, 1]]
    layer = negative_layer(means)
    (found,) = views.excited(layer, 0, layer.responses.contrast)[1:]
    assert (found.map, found.mean, found.share) == (0, 0, 0)
    assert found.others == pytest.approx(-11 / 4)
    assert [(one.label, one.share) for one in views.exciting(layer, 1)] == [(0, 1), (1, 0.5)]
    assert [(one.label, one.mean, one.share) for one in views.exciting(layer, 2)] == [
        (0, np.inf, 1),
        (1, 2, 1),
        (5, 1, 0.5),
    ]
    assert views.exciting(layer, 0) == []


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.inf, "∞"),
        (-np.inf, "-∞"),
        (np.nan, "NaN"),
        (0, "0.000"),
        (-12.34, "-12.3"),
        (1234, "1,234"),
        (0.001, "0.001"),
    ],
)
def test_numbers_have_three_digits_where_they_have_any(value, said):
    assert site._number(value) == said


def test_pages_say_how_many_they_list(made_up):
    page = Page(made_up / site.class_path(0))
    assert f"Up to {views.MAPS_OF_CLASS} maps of each layer" in "".join(page.text)


def test_the_longest_list_of_classes_says_that_it_ends(tmp_path):
    what = atlas_sites.survey(maps=1)
    count = views.CLASSES_OF_MAP + 1
    excitation = np.arange(1.0, count + 1)[None]
    layers = tuple(
        layer._replace(
            responses=layer.responses._replace(
                excitation=excitation.repeat(layer.maps, axis=0), images=np.ones(count, int)
            )
        )
        for layer in what.layers
    )
    what = what._replace(layers=layers, classes=tuple(map(str, range(count))))
    (sheet,) = {one.sheet for one in pictures(atlas_sites.gallery_of(layers[1], 7, range(1)))}
    site.write(tmp_path, what, [sheet, sheet])
    page = Page(tmp_path / site.map_path("relu4", 0))
    assert "The 10 classes that excite it most" in page.text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "missing --workdir=RUN"),
        (["--workdir=nowhere"], "no run in"),
        (["--workdir=nowhere", "--batch_size=0"], "--batch_size=0"),
        (["--workdir=nowhere", "runs/shapes"], "atlas takes only flags"),
    ],
)
def test_what_is_missing_is_named(capsys, words, expected):
    assert command.run(atlas.main, ["atlas", *words]) == 2
    assert expected in capsys.readouterr().err


def test_help_does_not_import_jax():
    code = "import sys, zfjax.atlas as a\ntry: a.main(['', '--help'])\nfinally: assert 'jax' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Examples:" in done.stdout


NASTY = {"circles": "<script>alert(1)", "noise": 'a&b "c"', "stripes": "%2e%2e ünï"}


def nasty_folder(folder, per_class):
    """Class folders with these names, and files with one."""
    tiny_runs.make_folder(folder, per_class)
    for name, nasty in NASTY.items():
        (folder / name).rename(folder / nasty)
    for picture in list((folder / NASTY["noise"]).iterdir()):
        picture.rename(picture.with_name(f"<b>&{picture.name}"))
    return folder


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_the_atlas_of_a_run(capsys, monkeypatch, tmp_path):
    folder = nasty_folder(tmp_path / "pictures", per_class=30)
    train_words = tiny_runs.train_command(folder, tmp_path / "run", epochs=1, cosine=False, image_size=64)[3:]
    assert command.run(train.main, ["train", *train_words]) == 0
    out = tmp_path / "site"
    words = ["atlas", f"--workdir={tmp_path / 'run'}", f"--out={out}", "--layers=relu2,relu5"]
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    for more, expected in (
        ([], "holds files but no atlas"),
        ([f"--out={tmp_path / 'other'}", "--layers=relu9"], "no layer 'relu9'"),
        ([f"--out={tmp_path / 'other'}", "--checkpoint=77"], "has no checkpoint '77'"),
        ([f"--out={tmp_path / 'other'}", "--boxes=nowhere.json"], "--boxes: cannot read nowhere.json"),
        (["--out=gs://bucket/site"], "expected a path on this disk"),
    ):
        assert command.run(atlas.main, [*words, *more]) == 2, more
        assert expected in capsys.readouterr().err
    assert (out / "mine.txt").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"pictures", "run", "site"}  # nothing is left over
    (out / "mine.txt").unlink()

    assert command.run(atlas.main, words) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    pages = check(out)
    assert re.fullmatch(
        rf"written to {re.escape(str(out))}: index\.html, {len(pages)} pages, \d+ pictures, [\d.]+ MB", last
    )
    assert reachable(pages, out / "index.html") == set(pages)
    files = contents(out)
    assert sum(map(len, files.values())) < 3e6
    assert not [name for name, content in files.items() if str(tmp_path).encode() in content]  # nor where it lay
    names = "".join(text for path, page in pages.items() if path.parent.name == "relu5" for text in page.text)
    assert "<b>&0" in names
    index = "".join(pages[(out / "index.html").resolve()].text)
    assert all(name in index for name in NASTY.values())
    assert "It classifies" in index

    assert command.run(atlas.main, words) == 0  # replaces, and is the same
    assert contents(out) == files

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(site, "write", killed)
    assert command.run(atlas.main, [*words, "--layers=relu1"]) == 130
    assert contents(out) == files
    assert {path.name for path in tmp_path.iterdir()} == {"pictures", "run", "site"}


@pytest.mark.slow
def test_of_a_resnet_and_of_fewer_than_nine_images(capsys, tmp_path):
    """Patches are whole images, and there are as many as there are images; dense layers have maps too."""
    folder = nasty_folder(tmp_path / "pictures", per_class=8)
    config = run_config("resnet18", f"folder:{folder}", width=0.03125, image_size=32)
    net = zfjax.resnet18(3, width=0.03125, image_size=32)
    variables = jax.device_get(jax.jit(net.init)(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32)))
    grey = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    write_run(tmp_path / "run", config, Loaded(net, variables, grey, {}, ()), {})
    boxes = {path.relative_to(folder).as_posix(): [0, 0, 9, 9] for path in folder.rglob("*.*") if path.is_file()}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    words = ["atlas", f"--workdir={tmp_path / 'run'}", "--layers=fc,stage4,stage1_1,stage4"]
    words += [f"--boxes={tmp_path / 'boxes.json'}"]
    assert command.run(atlas.main, words) == 0
    out = tmp_path / "run" / "atlas"
    pages = check(out)
    assert {path.name for path in (out / "layer").iterdir()} == {"stage1_1.html", "stage4.html", "fc.html"}
    firing = [page for path, page in pages.items() if path.parent.name == "stage4" and page.of("figure")]
    assert firing
    strongest = [[one for one in page.of("figure") if one["id"].startswith("image-")] for page in firing]
    assert {len(figures) for figures in strongest} <= {0, 1, 2, 3}
    assert "The validation split has only 3" in "".join(firing[0].text)
    first = pages[(out / "index.html").resolve()]
    assert [section["id"] for section in first.of("section")] == ["stage1_1", "stage4", "fc", "classes"]  # bottom first
    index = "".join(first.text)
    assert "shown 3 validation images" in index
    assert "It classifies" not in index  # no record of its accuracy
