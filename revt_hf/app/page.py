"""The page: gradio's controls around a scene, whose slider is that of the report."""

import html
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from revt_hf.app.scenes import Scene, Shown, heat, read_upload
from revt_hf.core.errors import UserError, counted
from revt_hf.data.domains.corruptions import SEVERITIES, Kind
from revt_hf.evaluation.predictor import Image
from revt_hf.hub.space import gradio_version
from revt_hf.prediction.inputs import IMAGES
from revt_hf.results.formats import render
from revt_hf.results.page import image_data

if TYPE_CHECKING:
    from gradio import Blocks

TITLE = "ReVT: models side by side"
SLIDERS: tuple[Kind, ...] = ("fog", "night", "noise")
CONFIDENCE = "confidence"
_VIEWS = ("classes", CONFIDENCE)
_LARGEST_UPLOAD = "64mb"
# Seconds after which uploads are deleted and the images of an idle session are forgotten, and
# between looking for such uploads.
_KEPT, _CLEANED = 3600, 600
_SESSIONS = 50
# The browser refuses what pages of gradio could fetch from other servers.
_POLICY = b"default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'"
_FONTS = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")
# Of events: only the last of several changes counts, and networks run one after the other.
_EVERY: dict[str, Any] = {"trigger_mode": "always_last", "api_visibility": "private"}
_NETWORK = {**_EVERY, "concurrency_limit": 1, "concurrency_id": "network"}
_DRAWING = {**_EVERY, "concurrency_limit": 1, "concurrency_id": "drawing"}
# A name, an image and a remark.
Picked = tuple[str, Image, str]


def check_gradio() -> None:
    """Refuse to go on without gradio; switch off its statistics, which its import reads."""
    gradio_version()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"


def build_page(shown: Shown, examples: Sequence[tuple[str, Image]]) -> "Blocks":
    """The page of some networks; ``examples`` are names and images to pick from."""
    check_gradio()
    import gradio as gr

    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(_CLEANED, _KEPT)) as page:
        gr.Markdown(f"# {TITLE}\n{_intro(shown)}", elem_id="intro")
        picked, scene = gr.State(time_to_live=_KEPT), gr.State(time_to_live=_KEPT)
        with gr.Row(elem_id="layout"):
            with gr.Column(elem_id="pick"):
                upload = gr.File(
                    label="Your image", file_types=sorted(IMAGES), height=140, elem_id="upload"
                )
                gallery = gr.Gallery(
                    [(image, name) for name, image in examples],
                    label="Examples",
                    columns=3,
                    height="auto",
                    allow_preview=False,
                    interactive=False,
                    visible=bool(examples),
                    buttons=[],
                    elem_id="examples",
                )
            with gr.Column(elem_id="show"):
                output = gr.HTML(_message("Upload an image, or pick an example."), elem_id="scene")
            with gr.Column(elem_id="set"):
                sliders = [
                    gr.Slider(0, SEVERITIES[-1], 0, step=1, label=kind.capitalize(), buttons=[])
                    for kind in SLIDERS
                ]
                view = gr.Radio(_VIEWS, value=_VIEWS[0], label="View", visible=shown.has_confidence)
                legend = gr.CheckboxGroup(
                    list(shown.space.classes),
                    value=list(shown.space.classes),
                    label="Classes",
                    show_select_all=True,
                    elem_id="legend",
                )
        results, segment = [picked, scene, output], partial(_segmented, shown)

        def pick(event: gr.SelectData, *severities: int) -> tuple[Any, ...]:
            return _picked(shown, examples[event.index], *severities)

        # The file is let go of, which opens the field for the next one.
        given, taken = [upload, *sliders], [upload, *results]
        found = [
            upload.upload(partial(_uploaded, shown), given, taken, **_NETWORK),
            gallery.select(pick, sliders, results, **_NETWORK),
            *(
                slider.change(segment, [picked, *sliders], [scene, output], **_NETWORK)
                for slider in sliders
            ),
        ]
        if examples:
            first = partial(_picked, shown, examples[0])
            found.append(page.load(first, sliders, results, **_NETWORK))
        # View and legend may change while networks run: drawing is a step of its own, after them.
        draws: list[Any] = [*(one.then for one in found), view.change, legend.change]
        for draw in draws:
            draw(partial(_redrawn, shown), [picked, scene, view, legend], output, **_DRAWING)
    return page


def _picked(shown: Shown, example: tuple[str, Image], *severities: int) -> tuple[Any, ...]:
    """The picked example, and what :func:`_segmented` returns."""
    picked = (*example, "")
    return picked, *_segmented(shown, picked, *severities)


def _uploaded(shown: Shown, path: str, *severities: int) -> tuple[Any, ...]:
    """No file, the picked image, its scene and no HTML; a message if it cannot be read."""
    try:
        image, remark = read_upload(Path(path))
    except UserError as error:
        return None, None, None, _message(str(error), is_problem=True)
    picked = Path(path).name, image, remark
    return None, picked, *_segmented(shown, picked, *severities)


def _segmented(shown: Shown, picked: Picked | None, *severities: int) -> tuple[Any, Any]:
    """The scene, by a severity for each slider, and HTML only if there is none: a message."""
    import gradio as gr

    if picked is None:
        return gr.skip(), gr.skip()
    name, image, _ = picked
    strengths = dict(zip(SLIDERS, map(int, severities), strict=True))
    try:
        scene = shown.segment(image, strengths, name)
    except UserError as error:
        return None, _message(f"{name}: {error}", is_problem=True)
    return scene, gr.skip()


def _redrawn(
    shown: Shown, picked: Picked | None, scene: Scene | None, view: str, visible: Sequence[str]
) -> Any:
    """The HTML of a scene; classes that are not ``visible`` are left out of the overlays."""
    if picked is None or scene is None:
        import gradio as gr

        return gr.skip()
    name, _, remark = picked
    hidden = set(shown.space.classes) - set(visible)
    is_confidence = view == CONFIDENCE
    notes = {}
    for network, found in scene.found.items():
        notes[network] = f"{found.seconds:.2f} s"
        if found.confidence is not None:
            notes[network] += f", mean confidence {found.confidence.mean() / 2.55:.0f} %"
    present = {int(one) for found in scene.found.values() for one in np.unique(found.classes)}
    height, width = scene.image.shape[:2]
    size = f"{width}x{height} pixels"
    return render(
        "scene.html.jinja",
        name=name,
        remark=", ".join(filter(None, (size, remark))),
        panels=scene.panels(shown.space, hidden, is_confidence),
        leading=shown.leading,
        notes=notes,
        ramp=_ramp() if is_confidence else [],
        absent=[number + 1 for number in range(len(shown.space)) if number not in present],
        image=partial(image_data, effort=0),
    )


def _ramp() -> list[str]:
    """The colours of confidence from 0 to 1, as CSS."""
    colours = heat(np.linspace(0, 255, 9, dtype=np.uint8)[None])[0].tolist()
    return ["rgb({} {} {})".format(*colour) for colour in colours]


def _intro(shown: Shown) -> str:
    merges = len(shown.segmenters) - len(shown.members)
    counts = {"member": len(shown.members), "merge": merges}
    told = [counted(number, noun) for noun, number in counts.items() if number]
    told += ["the members' ensemble"] if shown.ensemble else []
    size = "their own size" if shown.protocol.max_size is None else shown.protocol.text
    return f"{', '.join(told)}; images go into the networks at {size}."


def _message(text: str, is_problem: bool = False) -> str:
    role = "alert" if is_problem else "status"
    return f'<p class="message" role="{role}">{html.escape(text)}</p>'


def _style(shown: Shown) -> str:
    """The page's CSS, with a swatch for each entry of the legend."""
    sheets = [files("revt_hf.app").joinpath("page.css").read_text(), render("compare.css")]
    swatches = [
        f"#legend label:nth-of-type({number}) {{ --swatch: rgb({red} {green} {blue}) }}"
        for number, (red, green, blue) in enumerate(shown.space.by_name.values(), 1)
    ]
    return "\n".join([*sheets, *swatches])


@contextmanager
def serving(
    shown: Shown,
    examples: Sequence[tuple[str, Image]],
    host: str = "127.0.0.1",
    port: int | None = None,
) -> Iterator[str]:
    """Serve the page until the block ends; yields its address. ``None`` finds a free port."""
    page = build_page(shown, examples)
    import gradio as gr
    from starlette.middleware import Middleware

    fonts, mono = _FONTS
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            inbrowser=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            run_history=False,
            footer_links=[],
            enable_monitoring=False,
            max_file_size=_LARGEST_UPLOAD,
            state_session_capacity=_SESSIONS,
            app_kwargs={"middleware": [Middleware(_WithPolicy)]},
            theme=gr.themes.Default(primary_hue="indigo", font=fonts, font_mono=mono),
            css=_style(shown),
            head=f"<script>{render('compare.js.jinja')}</script>",
        )
    except OSError as error:
        raise UserError(f"cannot listen on {host}, port {port or 'any'}: {error}") from error
    try:
        yield address
    finally:
        page.close(verbose=False)


class _WithPolicy:
    """Adds the content security policy to every answer."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        async def sending(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"content-security-policy", _POLICY),
                ]
            await send(message)

        await self._app(scope, receive, sending)
