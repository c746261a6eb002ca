"""The page of `agvae demo`: the components of Gradio and the events between them."""

import functools
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache
from PIL import Image

from agvae.codec.bitstream import quality_of
from agvae.data.bundled_photos import HELD_OUT, TRAIN, sample_photos
from agvae.demo import coding, figures
from agvae.demo.coding import Coded, Models, Photo
from agvae.errors import is_out_of_memory
from agvae.images import encode_image, read_picture

Updates = dict[Any, Any]
"""New values of components, by component."""

QUALITY, BPP = "Quality", "Bits per pixel"
MODEL, BITS = "model", "bits"
"""Views of the wipe, in addition to those of the classical codecs, which have the codecs' names."""

_VIEWS = {MODEL: "Decoded", **figures.TITLES, BITS: "Where the bits go"}
_LABELS = {MODEL: "Original | decoded", BITS: "Original | bits"} | {
    name: f"AG-VAE | {title} of the same size" for name, title in figures.TITLES.items()
}
"""The pictures to the left and right of the handle."""

_PHOTOS = tuple(name for name in (*HELD_OUT, *TRAIN) if name != "motorcycle_right.png")
_CACHE_SECONDS = 3600
"""How long a photo, or a file behind a picture of the page, is kept for a browser that does nothing."""


class Session(NamedTuple):
    """The state of one browser: a photo, its file, and the results of other codecs at the same rate.

    original is the path of the photo as the page shows it. known maps qualities to the bpp of its files so far. asked
    is the unit and value of the slider for which the file was made."""

    photo: Photo
    original: str
    known: dict[float, float]
    asked: tuple[str, float] | None = None
    coded: Coded | None = None
    others: tuple[Coded, ...] = ()

    def has(self, view: str) -> bool:
        """Whether the picture of a classical codec at this rate exists."""
        return any(coded.codec == view for coded in self.others)


def _told(handler: Callable[..., Iterator[Updates]]) -> Callable[..., Iterator[Updates]]:
    """An event handler that shows errors a user can correct as sentences on the page."""

    @functools.wraps(handler)
    def run(self: "Page", *args: Any) -> Iterator[Updates]:
        try:
            yield {self.notice: ""}
            yield from handler(self, *args)
        except (ValueError, OSError, MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                error = MemoryError("not enough memory for this picture; choose a smaller one")
            elif isinstance(error, RuntimeError):
                raise
            yield {self.notice: _notice(str(error))}

    return run


def _notice(text: str) -> str:
    words = " ".join(text.split())
    return f'<div class="notice" role="alert">{figures.sentence(words)}</div>'


class Page:
    """The page. `blocks` is the object that Gradio serves."""

    def __init__(self, models: Models, model: str, max_pixels: int):
        self._models, self._model, self.max_pixels = models, model, max_pixels
        with gr.Blocks(
            analytics_enabled=False, title="AG-VAE", fill_width=True, delete_cache=(600, _CACHE_SECONDS)
        ) as self.blocks:
            self._session = gr.State(time_to_live=_CACHE_SECONDS)
            self._view = gr.State(MODEL)
            gr.Markdown("## AG-VAE: one model, any rate", elem_id="title")
            with gr.Tab("Compress"), gr.Row():
                with gr.Column(scale=1, min_width=320):
                    self._lay_out_controls()
                with gr.Column(scale=3, min_width=320, elem_id="pictures"):
                    self._lay_out_views()
            with gr.Tab("Open a file"), gr.Row():
                self._lay_out_reader()
            self._connect()

    # ---------------------------------------------------------------- layout

    def _lay_out_controls(self) -> None:
        photos = [(_thumbnail(path), path.stem.replace("_left", "")) for path in sample_photos(_PHOTOS)]
        self._gallery = gr.Gallery(
            photos, show_label=False, columns=5, rows=1, height=76, allow_preview=False, buttons=[], interactive=False,
            elem_id="photos", object_fit="cover",
        )  # fmt: skip
        self._upload = gr.File(label="Or drop a photo", file_types=["image"], height=110, elem_id="upload")
        self._choice = gr.Dropdown(self._models.names, value=self._model, label="Model", elem_id="model")
        levels = self._models.get(self._model).levels
        with gr.Group(elem_id="setting"):
            self._unit = gr.Radio([QUALITY, BPP], value=QUALITY, show_label=False, elem_id="unit")
            self._slider = gr.Slider(
                0, levels - 1, (levels - 1) / 2, step=0.01, label=QUALITY, elem_id="rate", buttons=[]
            )
        with gr.Row():
            self._agv = gr.DownloadButton("Download .agv", size="sm", min_width=120, elem_id="agv", interactive=False)
            self._png = gr.DownloadButton("Download PNG", size="sm", min_width=120, elem_id="png", interactive=False)

    def _lay_out_views(self) -> None:
        self.notice = gr.HTML(elem_id="notice", padding=False)
        self._wipes, self._tabs = {}, {}
        with gr.Tabs(elem_id="views"):
            for view, title in _VIEWS.items():
                with gr.Tab(title, id=view) as self._tabs[view]:
                    self._wipes[view] = gr.ImageSlider(
                        label=_LABELS[view], interactive=False, max_height=460, buttons=["fullscreen"],
                        elem_id=f"wipe-{view}",
                    )  # fmt: skip
        self._numbers = gr.HTML(elem_id="numbers", padding=False)

    def _lay_out_reader(self) -> None:
        with gr.Column(scale=1, min_width=320):
            self._file = gr.File(label="Drop an .agv file", file_types=[".agv"], elem_id="file")
            self._trouble = gr.HTML(elem_id="trouble", padding=False)
            self._facts = gr.HTML(elem_id="facts", padding=False)
            self._save = gr.DownloadButton("Download PNG", size="sm", elem_id="save", interactive=False)
        with gr.Column(scale=3, min_width=320):
            self._opened = gr.Image(
                label="Decoded", interactive=False, type="filepath", height=560, buttons=["fullscreen"],
                elem_id="opened",
            )  # fmt: skip

    def _connect(self) -> None:
        outputs = [self._session, self._view, self.notice, self._slider, self._numbers, self._agv, self._png]
        listen: dict[str, Any] = {
            "outputs": [*outputs, *self._wipes.values()],
            "concurrency_id": "codec",  # one at a time, since each takes all cores
            "concurrency_limit": 1,
            "api_visibility": "private",
            "show_progress": "minimal",
            "show_progress_on": self._numbers,
        }
        settings = [self._choice, self._unit, self._slider, self._view]
        self.blocks.load(self._first, settings, **listen)
        self._gallery.select(self._bundled, settings, **listen)
        self._upload.upload(self._uploaded, [self._upload, *settings], **listen)
        self._choice.input(self._other_model, [self._session, *settings], **listen)
        self._unit.input(self._other_unit, [self._session, self._unit], **listen)
        # While the slider is dragged, only its last place waits.
        rate = [self._session, self._unit, self._slider, self._view]
        self._slider.input(self._code, rate, trigger_mode="always_last", **listen)
        for view, tab in self._tabs.items():
            tab.select(functools.partial(self._show, view), [self._session], **listen)
        reader = {key: listen[key] for key in ("concurrency_id", "concurrency_limit", "api_visibility")}
        self._file.upload(self._read, [self._file], [self._opened, self._facts, self._save, self._trouble], **reader)

    # ---------------------------------------------------------------- events

    @_told
    def _first(self, model: str, unit: str, value: float, view: str) -> Iterator[Updates]:
        yield from self._open(sample_photos(_PHOTOS)[0], model, unit, value, view)

    @_told
    def _bundled(self, model: str, unit: str, value: float, view: str, event: gr.SelectData) -> Iterator[Updates]:
        yield from self._open(sample_photos(_PHOTOS)[event.index], model, unit, value, view)

    @_told
    def _uploaded(self, path: str, model: str, unit: str, value: float, view: str) -> Iterator[Updates]:
        yield from self._open(Path(path), model, unit, value, view)

    @_told
    def _other_model(
        self, session: Session | None, model: str, unit: str, value: float, view: str
    ) -> Iterator[Updates]:
        if session:
            photo = coding.analyze(self._models, model, session.photo.latent.picture, session.photo.name)
            yield from self._begin(photo, unit, value, view)

    @_told
    def _other_unit(self, session: Session | None, unit: str) -> Iterator[Updates]:
        if session and session.coded:
            value = quality_of(session.coded.file) if unit == QUALITY else session.coded.bpp
            yield {self._slider: self._scale(session, unit, value)[0]}

    @_told
    def _code(self, session: Session | None, unit: str, value: float, view: str) -> Iterator[Updates]:
        if session and session.asked != (unit, value):  # a typed number is sent again when its field is left
            yield from self._encode(session, unit, value, view)

    def _show(self, view: str, session: Session | None) -> Iterator[Updates]:
        yield {self._view: view}
        if session:
            yield from self.show_other(session, view)

    def _read(self, path: str) -> Iterator[Updates]:
        """Decode an .agv file with the model that made it."""
        try:
            data = Path(path).read_bytes()
            codec, image, seconds = coding.decode(self._models, data, self.max_pixels)
        except (ValueError, OSError, MemoryError) as error:
            empty = {self._opened: None, self._facts: "", self._save: gr.DownloadButton(interactive=False)}
            yield {self._trouble: _notice(str(error)), **empty}
            return
        png = self._file_of(image, f"{Path(path).stem}.png")
        yield {
            self._trouble: "",
            self._opened: png,
            self._facts: figures.facts(data, codec, seconds),
            self._save: gr.DownloadButton(value=png, interactive=True),
        }

    # ----------------------------------------------------------------- steps

    def _open(self, path: Path, model: str, unit: str, value: float, view: str) -> Iterator[Updates]:
        picture = read_picture(path, self.max_pixels)
        yield from self._begin(coding.analyze(self._models, model, picture, path.stem), unit, value, view)

    def _begin(self, photo: Photo, unit: str, value: float, view: str) -> Iterator[Updates]:
        """A new photo, or the same one with another model."""
        known = coding.rates_of_ends(self._models.get(photo.model), photo)
        session = Session(photo, self._shown(photo.latent.picture.to_pil(), f"{photo.name}-original.png"), known)
        slider, value = self._scale(session, unit, value)
        yield {self._session: session, self._slider: slider}
        yield from self._encode(session, unit, value, view)

    def _scale(self, session: Session, unit: str, value: float) -> tuple[gr.Slider, float]:
        """The slider for a unit, and its value, moved into the range of photo and model."""
        codec = self._models.get(session.photo.model)
        low, high = (0, codec.levels - 1) if unit == QUALITY else coding.rate_range(session.known)
        value = min(max(value, low), high)
        return gr.Slider(low, high, value, step=0.01 if unit == QUALITY else 0.001, label=unit), value

    def _encode(self, session: Session, unit: str, value: float, view: str) -> Iterator[Updates]:
        """Code the photo at the rate of the slider, and show it.

        First comes a picture, of about that rate if the slider is in bpp. Then comes the file of exactly that rate.
        Last come the parts that take as long again: decoding, MS-SSIM and the PNG to download."""
        session = session._replace(asked=(unit, value))
        photo = session.photo
        codec = self._models.get(photo.model)
        coded = coding.at_quality(codec, photo, value if unit == QUALITY else coding.quality_near(value, session.known))
        yield from self._show_coded(session, coded)
        if unit == BPP:
            coded = coding.at_bpp(codec, photo, value)
            yield from self._show_coded(session, coded)
        coded = coding.with_ms_ssim(coding.with_decoding(codec, coded), photo)
        session = session._replace(coded=coded, others=())
        yield {
            self._session: session,
            self._numbers: figures.table(photo, [coded]),
            self._png: gr.DownloadButton(value=self._file_of(coded.image, f"{photo.name}.png"), interactive=True),
        }
        yield from self.show_other(session, view)

    def _show_coded(self, session: Session, coded: Coded) -> Iterator[Updates]:
        session.known[quality_of(coded.file)] = coded.bpp
        name = session.photo.name
        agv = save_bytes_to_cache(coded.file, f"{name}.agv", self._agv.GRADIO_CACHE)
        yield {
            self._session: session._replace(coded=coded, others=()),
            self._wipes[MODEL]: (session.original, self._shown(coded.image, f"{name}-decoded.png")),
            self._numbers: figures.table(session.photo, [coded]),
            self._agv: gr.DownloadButton(value=agv, interactive=True),
            self._png: gr.DownloadButton(interactive=False),
        }

    @_told
    def show_other(self, session: Session, view: str) -> Iterator[Updates]:
        """The picture of a view that is not made with every file: that of a classical codec, or the map of bits."""
        photo, coded = session.photo, session.coded
        if coded is None:
            return
        if view == BITS:
            codec = self._models.get(photo.model)
            rates = figures.bits_per_pixel(codec, photo, quality_of(coded.file))
            yield {
                self._wipes[BITS]: gr.ImageSlider(
                    value=(session.original, self._file_of(figures.heat_map(rates, photo), "bits.png")),
                    label=f"{_LABELS[BITS]}, at most {rates.max():.2f} per pixel",
                )
            }
        elif view != MODEL and not session.has(view):
            try:
                other = coding.with_ms_ssim(coding.code_classical(view, photo, coded.bpp), photo)
            except ValueError:
                yield {self._wipes[view]: None}  # not the picture of another rate
                raise
            session = session._replace(others=(*session.others, other))
            ours = self._shown(coded.image, f"{photo.name}-decoded.png")
            yield {
                self._session: session,
                self._wipes[view]: (ours, self._file_of(other.image, f"{view}.png")),
                self._numbers: figures.table(photo, [coded, *session.others]),
            }

    def _shown(self, image: Image.Image, name: str) -> str:
        """A PNG file for the page only. It is made in a fifth of the time, and is larger."""
        file = io.BytesIO()
        image.save(file, "PNG", compress_level=1)
        return save_bytes_to_cache(file.getvalue(), name, self._agv.GRADIO_CACHE)

    def _file_of(self, image: Image.Image, name: str) -> str:
        """A PNG file in the page's cache, which Gradio serves and deletes."""
        return save_bytes_to_cache(encode_image(image, ".png")[0], name, self._agv.GRADIO_CACHE)


def _thumbnail(path: Path) -> Image.Image:
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((240, 240))
    return small
