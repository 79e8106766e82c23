"""Opens a page in the browser to try models on: python -m vit_jax.page [MODEL...].

One drops a photo, or types a text, and sees the answer. A MODEL is a run's folder, a file of
weights, or a name, as `vit_jax.load` takes them; each gets a tab. One model can be said by the
flags in its place; without any it is the small dehazer that comes with the package. The page is for
this machine alone, unless --host says otherwise, and asks no other machine for anything; what
visitors send is removed at the end.
"""

# ruff: noqa: E402

from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from vit_jax.machinery import cli, model_flags

_HOST = flags.DEFINE_string(
    "host", "127.0.0.1", "Address to listen at; 0.0.0.0 lets other machines see the page."
)
_PORT = flags.DEFINE_integer(
    "port", 0, "Port to listen at; 0: the first that is free from 7860 on.", 0, 65535
)


if __name__ == "__main__":
    cli.parse_early()  # before what takes seconds to import

import dataclasses
import html
import io
import logging
import os
import signal
import tempfile
import threading

from vit_jax.tasks import get_task, plain
from vit_jax.tasks.base import Panel, Pretrained

_LOG = logging.getLogger("vit_jax.page")  # also when it is run as __main__

_LARGEST_FILE = "100mb"
_SHOWN = 2048  # pixels of the longer side of a picture in the page; files are whole
_KEPT = 3600  # seconds that what a visitor sent is kept, at most
_WAITING = 32  # visitors in the queue
_UNEXPLAINED = "this failed; what the page writes in its terminal says why"
_BUTTONS = ["download", "fullscreen"]  # and none that sends a picture elsewhere
_HEAD = '<meta name="referrer" content="no-referrer">'
# Pictures that are drawn have words up to their edges, over which Gradio lays a label and buttons.
_STYLE = """
.gradio-container {width: 100% !important; max-width: 72rem !important; margin: auto}
.drawn .image-container {padding-top: 2.2rem}
"""


def main(argv: Sequence[str]) -> int:
    """Serves the page until it is interrupted; returns the exit code."""
    import_gradio()  # or raises, before models are loaded
    run(_load(argv[1:]), _HOST.value, _PORT.value)
    return 0


def _load(paths: Sequence[str]) -> list[Pretrained]:
    """The models that were said, by flags or by their places."""
    if not model_flags.is_silent():
        if paths:
            raise ValueError(
                f"say models either by flags, one alone, or by place: {' '.join(paths)}"
            )
        return [model_flags.load()]
    if not paths:
        from checkpoints import packages  # takes a while to import

        paths = [packages.DEHAZER]
        _LOG.info("no model is given: this is %s, see docs/dehazer.md", packages.DEHAZER)
    from vit_jax import pretrained  # takes seconds to import

    found: list[Any] = []
    for path in paths:
        _LOG.info("loading %s", path)
        found.append(pretrained.load(path))
    return found


def import_gradio() -> Any:
    """Imports Gradio, which is to tell nobody of it.

    Raises:
        ValueError: if it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio
    except ImportError as error:
        raise ValueError(f"the page needs {error.name}: pip install 'vit_jax[page]'") from None
    logging.getLogger("httpx").setLevel(logging.WARNING)  # which tells of each request
    return gradio


def make(models: Sequence[Pretrained]) -> Any:
    """Makes the page, a `gradio.Blocks`.

    Args:
        models: what it is for, see `vit_jax.pretrained.load`.

    Raises:
        ValueError: if Gradio is not installed, or for a model that has no answers.
    """
    gradio = import_gradio()
    panels = [(get_task(model.model).panel or plain.make_panel)(model) for model in models]
    blocks = gradio.Blocks(title="vit_jax", analytics_enabled=False, delete_cache=(60, _KEPT))
    with blocks:
        gradio.Markdown("# vit_jax")
        if len(models) == 1:
            _lay_out(gradio, models[0], panels[0])
        else:
            with gradio.Tabs():
                for name, model, panel in zip(_tab_names(models), models, panels):
                    with gradio.Tab(name):
                        _lay_out(gradio, model, panel)
    blocks.queue(max_size=_WAITING, default_concurrency_limit=1)
    return blocks


def _tab_names(models: Sequence[Pretrained]) -> tuple[str, ...]:
    return plain.told_apart([model.name for model in models])


@dataclasses.dataclass(frozen=True)
class _Widget:
    """How a kind of answer is shown.

    Attributes:
        make: a component, of Gradio and what is written over it.
        convert: from an answer to what the component takes.
    """

    make: Callable[[Any, str], Any]
    convert: Callable[[Any], Any] = lambda value: value


def _lay_out(gradio: Any, model: Pretrained, panel: Panel) -> None:
    """Puts what is asked to the left, and what is answered to the right, or below."""
    gradio.Markdown(f"**{model.name}**: {panel.says}")
    widgets = [_WIDGETS[kind] for kind in panel.shows.values()]
    with gradio.Row():
        with gradio.Column(scale=1, min_width=320):
            asked = [_make_input(gradio, kind, name) for name, kind in panel.asks.items()]
            button = gradio.Button("Answer", variant="primary")
        with gradio.Column(scale=2, min_width=320):
            shown = [widget.make(gradio, name) for widget, name in zip(widgets, panel.shows)]
    readers = [_READERS.get(kind, str) for kind in panel.asks.values()]

    def answer(*given: Any) -> Any:
        try:
            values = [
                read(_check_given(name, value))
                for name, read, value in zip(panel.asks, readers, given)
            ]
            found = panel.answer(*values)
            converted = [
                None if value is None else widget.convert(value)
                for widget, value in zip(widgets, found, strict=True)
            ]
        except Exception as error:  # whatever one visitor does, the others get an answer
            _LOG.warning("%s", error, exc_info=not isinstance(error, ValueError))
            message = _explain(error, given)
            raise gradio.Error(message, duration=None, print_exception=False) from None
        return converted if len(converted) > 1 else converted[0]

    said = {
        "fn": answer, "inputs": asked, "outputs": shown, "concurrency_id": "model",
        "api_name": False, "show_progress_on": shown[:1],
    }  # fmt: skip
    button.click(**said)
    for component, kind in zip(asked, panel.asks.values()):
        if kind == "image" and len(asked) == 1:
            component.upload(**said)
        elif kind != "image":
            component.submit(**said)


def _check_given(name: str, value: Any) -> Any:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise ValueError(f"there is nothing yet in: {name}")
    return value


def _explain(error: Exception, given: Sequence[Any]) -> str:
    """What a visitor is told, as HTML, which Gradio takes it for."""
    if not isinstance(error, ValueError):
        return _UNEXPLAINED
    return html.escape(_without_folder(str(error), given), quote=False)


def _without_folder(message: str, given: Sequence[Any]) -> str:
    """A message about files that were sent, without where they lie on this machine."""
    for path in given:
        if isinstance(path, str) and os.path.isabs(path):
            message = message.replace(os.path.join(os.path.dirname(path), ""), "")
    return message


def _make_input(gradio: Any, kind: str, name: str) -> Any:
    if kind != "image":
        return gradio.Textbox(label=name, lines=1 if kind == "labels" else 3)
    component = gradio.Image(
        label=name, sources=["upload", "clipboard"], type="filepath", buttons=["fullscreen"]
    )
    # The file as it was sent, so that `photos` reads it, and says what is wrong with it.
    component.preprocess = lambda sent: sent and sent.path
    return component


def _names_in(text: str) -> tuple[str, ...]:
    """What a visitor typed with commas between, each once."""
    names = (name.strip() for line in text.splitlines() for name in line.split(","))
    return tuple(dict.fromkeys(filter(None, names)))


# From what Gradio has to what `Panel.answer` gets, by the kind that is asked for.
_READERS: dict[str, Callable[[Any], Any]] = {"labels": _names_in}


def _shrunk(picture: Any) -> Any:
    """A PIL image that is no larger than a page needs."""
    small = picture.copy()
    small.thumbnail((_SHOWN, _SHOWN))
    return small


def _opened(data: bytes) -> Any:
    from PIL import Image

    return _shrunk(Image.open(io.BytesIO(data)))


def _stored(named: tuple[str, bytes]) -> str:
    """Writes a file where Gradio finds it, and removes it in time; returns its path."""
    from gradio import processing_utils, utils

    name, data = named
    return processing_utils.save_bytes_to_cache(data, name, utils.get_upload_folder())


_WIDGETS = {
    "shares": _Widget(lambda gradio, name: gradio.Label(label=name, num_top_classes=5)),
    "picture": _Widget(
        lambda gradio, name: gradio.Image(
            label=name, format="png", interactive=False, buttons=_BUTTONS, elem_classes="drawn"
        ),
        _opened,
    ),
    "comparison": _Widget(
        lambda gradio, name: gradio.ImageSlider(label=name, format="png", interactive=False),
        lambda pair: tuple(map(_shrunk, pair)),
    ),
    "text": _Widget(lambda gradio, name: gradio.Textbox(label=name, interactive=False)),
    "file": _Widget(lambda gradio, name: gradio.File(label=name, interactive=False), _stored),
}


def run(models: Sequence[Pretrained], host: str = "127.0.0.1", port: int = 0) -> None:
    """Shows the page until the process is interrupted or asked to end; what was sent is removed.

    Args:
        models: see `make`.
        host: address to listen at.
        port: to listen at; 0 is the first that is free from 7860 on.

    Raises:
        ValueError: see `make`; or if nothing can be served there.
    """
    gradio = import_gradio()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    with tempfile.TemporaryDirectory(prefix="vit_jax_page_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        blocks = make(models)
        try:
            _, url, _ = blocks.launch(
                server_name=host, server_port=port or None, prevent_thread_lock=True, quiet=True,
                share=False, ssr_mode=False, run_history=False, enable_monitoring=False,
                max_file_size=_LARGEST_FILE, footer_links=[], theme=theme, css=_STYLE, head=_HEAD,
            )  # fmt: skip
        except OSError as error:
            raise ValueError(f"cannot serve at {host}: {error}; say another --port") from None
        print(f"the page is at {url} - Ctrl+C ends it", flush=True)
        stop.wait()
        blocks.close(verbose=False)


if __name__ == "__main__":
    cli.run(main)
