"""Properties of `agvae demo`: the functions behind the page, the page in a browser, and the folder of a Space."""

import importlib.metadata
import io
import math
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agvae import BitstreamError, Codec, TargetError, cli
from agvae.codec import model_file
from agvae.data.bundled_photos import sample_photos
from agvae.demo import coding, figures
from agvae.images import picture_of
from agvae.metrics import psnr

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")


@pytest.fixture
def codec(tiny_model) -> Codec:
    return Codec(model_file.from_model(tiny_model), "tiny")


@pytest.fixture
def models(tiny_model, tmp_path) -> coding.Models:
    model_file.from_model(tiny_model).save(tmp_path / "tiny.safetensors")
    return coding.Models([str(tmp_path / "tiny.safetensors")])


@pytest.fixture
def seen(models, photo) -> coding.Photo:
    return coding.analyze(models, models.names[0], picture_of(photo), "astronaut")


# ---------------------------------------------------------- behind the page


def test_the_page_makes_the_files_that_the_codec_makes(codec, seen, photo):
    middle = sum(coding.rate_range(coding.rates_of_ends(codec, seen))) / 2
    coded_to = {"quality": coding.at_quality(codec, seen, 1.3), "bpp": coding.at_bpp(codec, seen, middle)}
    for name, coded in coded_to.items():
        target = {name: {"quality": 1.3, "bpp": middle}[name]}
        assert coded.file == codec.compress(photo, **target, lossless=False)
        np.testing.assert_array_equal(np.asarray(coded.image), np.asarray(codec.decompress(coded.file)))
        assert coded.psnr == psnr(photo, coded.image)
        assert coded.bpp == 8 * len(coded.file) / 512**2


def test_the_analysis_runs_once_for_all_rates(models, seen, monkeypatch):
    codec = models.get(seen.model)
    monkeypatch.setattr(codec.model, "g_a", None)
    assert len({coding.at_quality(codec, seen, quality).file for quality in (0, 0.5, 2)}) == 3


def test_every_rate_of_the_slider_can_be_had(codec, seen):
    low, high = coding.rate_range(coding.rates_of_ends(codec, seen))
    assert low < high
    for bpp in (low, high):
        assert 0.99 * bpp <= coding.at_bpp(codec, seen, bpp).bpp <= bpp


def test_the_first_picture_is_near_the_rate_and_nearer_with_each_file(codec, seen):
    known = coding.rates_of_ends(codec, seen)
    wanted = math.sqrt(math.prod(coding.rate_range(known)))
    errors = []
    for _ in range(3):
        quality = coding.quality_near(wanted, known)
        known[quality] = coding.at_quality(codec, seen, quality).bpp
        errors.append(abs(math.log(known[quality] / wanted)))
    assert errors[0] < 0.5
    assert errors[2] < 0.02


@pytest.mark.parametrize("name", figures.TITLES)
def test_classical_codecs_take_no_more_than_the_rate(seen, name):
    coded = coding.with_ms_ssim(coding.code_classical(name, seen, 1.0), seen)
    assert 0.8 < coded.bpp <= 1
    assert 0.9 < coded.ms_ssim < 1
    with pytest.raises(TargetError):
        coding.code_classical(name, seen, 0.001)


def test_the_map_of_bits_adds_up_to_the_model_s_own_rate(codec, seen):
    rates = figures.bits_per_pixel(codec, seen, 1.25)
    assert rates.shape == (32, 32)
    assert 256 * rates.sum() == pytest.approx(codec.estimate(seen.latent, quality=1.25), rel=1e-4)
    assert figures.heat_map(rates, seen).size == (512, 512)


def test_the_map_of_bits_covers_a_picture_of_any_size(models, photo):
    odd = coding.analyze(models, models.names[0], picture_of(photo.crop((0, 0, 203, 91))), "odd")
    rates = figures.bits_per_pixel(models.get(odd.model), odd, 1)
    assert rates.shape == (6, 13)
    assert figures.heat_map(rates, odd).size == (203, 91)


def test_small_grey_and_transparent_pictures_have_numbers(codec, models, photo):
    small = photo.resize((40, 30))
    for image in (small, small.convert("L"), small.convert("RGBA")):
        seen = coding.analyze(models, models.names[0], picture_of(image), "<small>")
        text = figures.table(seen, [coding.with_ms_ssim(coding.at_quality(codec, seen, 1), seen)])
        assert " dB</td>" in text
        assert "too small" in text


def test_text_of_the_page_is_escaped(seen, codec):
    coded = coding.at_quality(codec, seen, 0)._replace(codec="<b>")
    assert "<b>" not in figures.table(seen, [coded])
    assert figures.sentence("it is <b>") == "It is &lt;b&gt;."


def test_a_file_finds_its_model_and_a_foreign_one_a_sentence(models, codec, photo):
    for lossless, word in ((False, "Quality"), (True, "lossless")):
        data = codec.compress(photo, lossless=lossless)
        found, image, seconds = coding.decode(models, data, photo.width * photo.height)
        assert image.size == photo.size
        assert word in figures.facts(data, found, seconds)
        with pytest.raises(BitstreamError, match="pixels"):
            coding.decode(models, data, photo.width * photo.height - 1)
    with pytest.raises(BitstreamError, match="made by the model 00000000"):
        models.of(bytes(4))


def test_a_missing_gradio_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    for module in ("app", "serving"):
        monkeypatch.delitem(sys.modules, f"agvae.demo.{module}", raising=False)
        monkeypatch.delattr(f"agvae.demo.{module}", raising=False)
    assert cli.main(["demo"]) == 2
    assert "pip install -e '.[demo]'" in capsys.readouterr().err


def test_a_codec_without_a_file_as_small_leaves_no_picture_of_another_rate(models, codec, seen, tmp_path, monkeypatch):
    pytest.importorskip("gradio")
    from agvae.demo import app

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    page = app.Page(models, models.names[0], 2**20)

    def refuse(*_):
        raise TargetError("0.01 bpp is out of range")

    monkeypatch.setattr(coding, "code_classical", refuse)
    session = app.Session(seen, "original.png", {}, None, coding.at_quality(codec, seen, 0))
    updates = {}
    for update in page.show_other(session, "jpeg"):
        updates |= update
    assert None in updates.values()
    assert any("0.01 bpp is out of range." in str(value) for value in updates.values())


# ---------------------------------------------------------------- the Space


@pytest.fixture(scope="module")
def space(tmp_path_factory) -> Path:
    pytest.importorskip("gradio")
    folder = tmp_path_factory.mktemp("spaces") / "space"
    assert cli.main(["demo", "--space", str(folder), "--model", "agvae-small-mse"]) == 0
    return folder


def test_a_space_says_what_it_needs(space):
    hub = pytest.importorskip("huggingface_hub")
    data = hub.SpaceCard((space / "README.md").read_text()).data
    assert (data.sdk, data.app_file) == ("gradio", "app.py")
    assert data.sdk_version == importlib.metadata.version("gradio")
    assert len(data.short_description) <= 60  # the Hub refuses longer ones
    lines = (space / "requirements.txt").read_text().splitlines()
    assert all("==" in line and "+" not in line for line in lines)
    compile((space / "app.py").read_text(), "app.py", "exec")
    assert not list(space.rglob("__pycache__"))


def test_a_space_of_a_model_of_one_s_own_brings_it_along(models, tmp_path):
    pytest.importorskip("gradio")
    assert cli.main(["demo", "--space", str(tmp_path / "space"), "--model", models.names[0]]) == 0
    assert Codec.from_pretrained(tmp_path / "space" / "tiny").fingerprint
    assert "'tiny'" in (tmp_path / "space" / "app.py").read_text()


def test_a_space_does_not_go_into_a_folder_with_files(space, capsys):
    assert cli.main(["demo", "--space", str(space)]) == 2
    assert "choose a new or empty folder" in capsys.readouterr().err


_BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name in {blocked!r}:
            raise ImportError(f"{{name}} is not in requirements.txt")
sys.meta_path.insert(0, Blocker())
"""


@pytest.mark.slow
def test_a_space_runs_as_it_is(space, tmp_path):
    # Dependencies of agvae that are not in requirements.txt are hidden.
    (tmp_path / "sitecustomize.py").write_text(_BLOCKER.format(blocked=["hydra", "wandb", "bjontegaard"]))
    environment = {"PYTHONPATH": str(tmp_path), "GRADIO_SERVER_NAME": "127.0.0.1"}
    with served(tmp_path, "app.py", cwd=space, **environment) as address, urllib.request.urlopen(address) as page:
        assert "AG-VAE" in page.read().decode()
    listing = [sys.executable, "-c", "import agvae; print(agvae.__file__, agvae.__version__)"]
    found = subprocess.run(listing, cwd=space, capture_output=True, text=True, check=True).stdout.split()
    assert found == [str(space / "agvae" / "__init__.py"), importlib.metadata.version("agvae")]


# ------------------------------------------------------------- the browser


@contextmanager
def served(folder: Path, *command: str, cwd: Path = ROOT, **environment: str):
    """Run the command of a page and give its address. At the end, the temporary files must be gone."""
    (folder / "tmp").mkdir(exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(folder / "tmp"), **environment}
    with open(folder / "log", "w+") as log:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            line = process.stdout.readline()
            assert line.startswith("The page is at http://127.0.0.1:"), (folder / "log").read_text()
            yield line.split()[4]
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            process.stdout.close()
    assert not list((folder / "tmp").glob("agvae-demo-*"))


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    pytest.importorskip("gradio")
    folder = tmp_path_factory.mktemp("page")
    options = ("--model", "agvae-small-mse", "--max-pixels", "1000000")
    with served(folder, "-m", "agvae", "demo", *options) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser, address, width=1366, height=768):
    """A tab with the page and its numbers. The page must load nothing from other addresses and log no error."""
    context = browser.new_context(viewport={"width": width, "height": height}, has_touch=width < 500)
    tab = context.new_page()
    tab.set_default_timeout(120_000)
    trouble, requests = [], []
    tab.on("pageerror", lambda error: trouble.append(str(error)))
    tab.on("console", lambda message: trouble.append(message.text) if message.type == "error" else None)
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(address)
    numbers(tab)
    yield tab
    assert trouble == []
    assert [url for url in requests if not url.startswith((address.partition("?")[0], "data:", "blob:"))] == []
    context.close()


def numbers(tab, rows=1, other_than=None):
    """The cells of the table. Waits until it has `rows` measured rows and the first one differs from `other_than`."""
    tab.wait_for_function(
        """([rows, old]) => {
            const found = [...document.querySelectorAll("#numbers tr")].slice(1).map(row => row.innerText);
            return found.length == rows && !found.join().includes("…") && found[0] != old;
        }""",
        arg=[rows, other_than and "\t".join(other_than)],
    )
    lines = tab.locator("#numbers tr").all()[1:]
    found = [line.locator("td").all_inner_texts() for line in lines]
    return found[0] if rows == 1 else found


def download(tab, selector, path):
    with tab.expect_download() as waiting:
        tab.locator(selector).click()
    waiting.value.save_as(path)
    return path


def set_rate(tab, value):
    field = tab.locator("#rate input[type=number]")
    field.fill(str(value))
    field.press("Enter")
    field.blur()


@pytest.mark.slow
def test_a_photo_is_chosen_coded_downloaded_and_decoded_to_the_same_picture(browser, address, tmp_path):
    with opened(browser, address) as tab:
        first = numbers(tab)
        tab.locator("#photos button").nth(1).click()
        coffee = numbers(tab, other_than=first)
        set_rate(tab, 1.25)
        moved = numbers(tab, other_than=coffee)
        assert int(moved[1].replace(",", "")) < int(coffee[1].replace(",", ""))

        file, png = download(tab, "#agv", tmp_path / "x.agv"), download(tab, "#png", tmp_path / "x.png")
        assert file.stat().st_size == int(moved[1].replace(",", ""))
        assert cli.main(["decompress", str(file), str(tmp_path / "y.png")]) == 0
        decoded, shown = (np.asarray(Image.open(path)) for path in (tmp_path / "y.png", png))
        np.testing.assert_array_equal(decoded, shown)
        (photo,) = sample_photos(("coffee.png",))
        assert float(moved[3].split()[0]) == pytest.approx(psnr(Image.open(photo).convert("RGB"), decoded), abs=0.006)

        tab.get_by_role("tab", name="Open a file").click()
        tab.locator("#file input[type=file]").set_input_files(file)
        tab.locator("#opened img").wait_for()
        assert moved[1] in tab.locator("#facts").inner_text()
        again = download(tab, "#save", tmp_path / "z.png")
        np.testing.assert_array_equal(np.asarray(Image.open(again)), decoded)


@pytest.mark.slow
def test_classical_codecs_and_the_map_of_bits_are_beside_it(browser, address):
    with opened(browser, address) as tab:
        size = int(numbers(tab)[1].replace(",", ""))
        for rows, title in enumerate(figures.TITLES.values(), 2):
            tab.get_by_role("tab", name=title, exact=True).click()
            found = numbers(tab, rows)[-1]
            assert found[0] == title
            assert int(found[1].replace(",", "")) <= size
        tab.get_by_role("tab", name="Where the bits go").click()
        tab.get_by_text("bits, at most").wait_for()
        assert tab.locator("#wipe-bits img").count() == 2


@pytest.mark.slow
def test_the_slider_takes_bits_per_pixel_and_the_model_can_be_changed(browser, address):
    with opened(browser, address) as tab:
        first = numbers(tab)
        tab.locator("#unit").get_by_text("Bits per pixel").click()
        tab.locator("#rate").get_by_text("Bits per pixel").wait_for()
        set_rate(tab, 0.35)
        moved = numbers(tab, other_than=first)
        assert 0.3465 <= float(moved[2]) <= 0.35
        tab.locator("#model input").click()
        tab.get_by_role("option", name="agvae-small-msssim").click()
        other = numbers(tab, other_than=moved)
        assert other[0] == "agvae-small-msssim"
        assert 0.3465 <= float(other[2]) <= 0.35


@pytest.mark.slow
def test_errors_are_sentences_on_the_page(browser, address, photo, tmp_path):
    large = io.BytesIO()
    Image.new("RGB", (1001, 1000)).save(large, "png")
    with opened(browser, address) as tab:
        before = numbers(tab)
        for name, data, words in (
            ("text.png", b"no picture", "Not an image that can be read."),
            ("large.png", large.getvalue(), "The picture exceeds the limit of 1000000 pixels."),
        ):
            (tmp_path / name).write_bytes(data)
            tab.locator("#upload input[type=file]").set_input_files(tmp_path / name)
            tab.get_by_role("alert").get_by_text(words).wait_for()
            tab.locator("#upload").get_by_label("Clear").click()
        assert numbers(tab) == before
        tab.locator("#photos button").nth(1).click()
        numbers(tab, other_than=before)
        assert tab.get_by_role("alert").count() == 0
        tab.get_by_role("tab", name="Open a file").click()
        (tmp_path / "x.agv").write_bytes(b"nothing of the sort")
        tab.locator("#file input[type=file]").set_input_files(tmp_path / "x.agv")
        tab.get_by_role("alert").wait_for()


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1366, 768), (390, 844)])
def test_the_page_fits_the_screen(browser, address, width, height, theme):
    with opened(browser, f"{address}?__theme={theme}", width, height) as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        slider, picture = (tab.locator(name).bounding_box() for name in ("#rate", "#wipe-model"))
        for box in (slider, picture):  # both are visible while the slider moves
            assert box["y"] >= 0
            assert box["y"] + box["height"] <= height
