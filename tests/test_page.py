"""The page in the browser: what its panels say, and that a person can use it."""

import contextlib
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vit_jax
from tests import word_models
from tests.answerers import Moves, Shade, Thirds, filling_in, made, translating
from tests.commands import ROOT
from tests.helpers import TINY, TINY_MIXER, photo, smooth
from vit_jax import convert, page
from vit_jax.answering import LoadedModel
from vit_jax.models import get_model
from vit_jax.tasks import get_task, plain


def panel_of(pretrained):
    return (get_task(pretrained.model).panel or plain.make_panel)(pretrained)


def opened(data):
    return Image.open(io.BytesIO(data))


@pytest.fixture
def path(tmp_path):
    Image.fromarray(photo((20, 32))).save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


# What a panel says is what a loaded model says.


def test_classes_and_where_the_model_looks(path):
    labels = ("daisy", "rose", "tulip")
    vit = made(get_model("ViT-Ti_16", num_classes=3, **TINY), labels=labels, loss="softmax_xent")
    panel = panel_of(vit)
    assert list(panel.shows.values()) == ["shares", "picture"]
    shares, picture = panel.answer(path)
    assert shares == LoadedModel(vit)(path)
    assert opened(picture).width > 300
    mixer = made(get_model("Mixer-B_16", num_classes=3, **TINY_MIXER), labels=labels)
    panel = panel_of(mixer)
    assert list(panel.shows.values()) == ["shares"]  # there is no attention
    assert panel.answer(path) == (LoadedModel(mixer)(path),)


def test_before_and_after_are_of_one_size(path, tmp_path):
    darker = made(Shade(), variables={"params": {"shade": np.full(1, 0.5, "f4")}})
    (before, after), (name, data) = panel_of(darker).answer(path)
    np.testing.assert_array_equal(before, Image.open(path))
    np.testing.assert_array_equal(after, LoadedModel(darker)(path))
    assert name == "a.png"
    np.testing.assert_array_equal(opened(data), after)
    gone = str(tmp_path / "gone.png")
    with pytest.raises(ValueError, match=r"cannot restore .*gone.png: No such file"):
        panel_of(darker).answer(gone)


def test_segments(path):
    thirds = made(Thirds(), labels=("red", "green", "blue"))
    overlay, shares, (name, data) = panel_of(thirds).answer(path)
    classes = LoadedModel(thirds)(path)
    np.testing.assert_array_equal(opened(data), classes)
    expected = np.bincount(classes.ravel(), minlength=3) / classes.size
    np.testing.assert_allclose(list(shares.values()), expected, atol=1e-6)
    assert list(shares) == ["red", "green", "blue"]
    assert (name, opened(overlay).format) == ("a.png", "PNG")


def test_flow(tmp_path):
    frames = [tmp_path / "a.png", tmp_path / "b.png"]
    for seed, frame in enumerate(frames):
        Image.fromarray(smooth((16, 24), seed)).save(frame)
    moves = made(Moves(), variables={"params": {"scale": np.full(1, 2, "f4")}})
    picture, (name, data) = panel_of(moves).answer(*map(str, frames))
    assert opened(picture).width > 300
    flow = np.frombuffer(data, "<f4", offset=12).reshape(16, 24, 2)
    np.testing.assert_array_equal(flow, LoadedModel(moves)(*frames))
    assert name == "a.flo"


def test_words_that_a_visitor_types(path, tmp_path):
    pretrained = word_models.make(tmp_path)
    panel = panel_of(pretrained)
    for labels in (("cat", "dog"), ("red car", "a dog", "cat")):  # one page, and more words
        (shares,) = panel.answer(path, labels)
        convert.write(tmp_path / "a.npz", pretrained)
        assert shares == pytest.approx(vit_jax.load(tmp_path / "a.npz", labels=labels)(path))
    with pytest.raises(ValueError, match="there are no words to look for"):
        panel.answer(path, ())


def test_texts(tmp_path):
    said, picture = panel_of(translating()).answer("seven hundred")
    assert said == LoadedModel(translating())("seven hundred")
    assert opened(picture).format == "PNG"
    (line,) = panel_of(filling_in(tmp_path)).answer("a [MASK] c")
    assert re.fullmatch(r"a \[MASK\] c: .*%(, .*%){4}", line)


def test_what_is_typed_is_told_apart():
    assert page._names_in(" cat, a red car,,cat\ndog ") == ("cat", "a red car", "dog")


def test_messages_are_html_without_folders():
    sent = ("/tmp/x/a.jpg", "x")
    message = page._explain(ValueError("cannot read /tmp/x/a.jpg: no <unk> & 'b'"), sent)
    assert message == "cannot read a.jpg: no &lt;unk&gt; &amp; 'b'"
    assert page._explain(KeyError("/etc/secret"), sent) == page._UNEXPLAINED


def test_what_a_page_needs_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ValueError, match=r"the page needs gradio: pip install 'vit_jax\[page\]'"):
        page.make([])


# In a browser.


class Outside:
    """A proxy that lets nothing through, and keeps what it was asked for."""

    def __init__(self):
        self.asked = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                with connection:
                    self.asked.append(connection.recv(200))

    def close(self):
        self._socket.close()


@contextlib.contextmanager
def served(*arguments, folder):
    """Runs the command; gives the address of the page and the proxy that stands for the world."""
    outside = Outside()
    temporary = folder / "temporary"
    temporary.mkdir()
    environment = {
        **os.environ, "HTTP_PROXY": outside.address, "HTTPS_PROXY": outside.address,
        "NO_PROXY": "127.0.0.1,localhost", "TMPDIR": str(temporary),
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "vit_jax.page", *map(str, arguments)],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        yield re.search(r"http://\S+", line)[0], outside
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        outside.close()
    assert not list(temporary.glob("vit_jax_page_*"))  # what visitors sent is gone


@pytest.mark.slow
def test_visitors_drop_photos(tmp_path):
    api = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    labels = ("daisy", "rose", "tulip")
    vit = get_model("ViT-Ti_16", num_classes=3, **TINY)
    known = dict(name="ViT-Ti_16", fields=dict(TINY, num_classes=3), labels=labels)
    convert.write(tmp_path / "flowers.npz", made(vit, loss="softmax_xent", **known))
    Image.fromarray(photo((60, 80))).save(tmp_path / "good.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    models = ("package:dehazer", tmp_path / "flowers.npz")
    with served(*models, folder=tmp_path) as (url, outside), api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        one, other = (browser.new_page() for _ in range(2))
        asked = []
        for visitor in (one, other):
            visitor.set_default_timeout(120_000)
            visitor.on("request", lambda request: asked.append(request.url))
            visitor.goto(url)
        one.get_by_role("tab", name="ViT-Ti_16").click()
        drop(one, tmp_path / "good.jpg")  # both at once
        drop(other, tmp_path / "good.jpg")
        one.get_by_text("tulip").first.wait_for()
        other.locator("a[href$='good.jpg']").first.wait_for()
        after = other.locator("img:visible").nth(2)  # what was dropped is first, then before
        after.wait_for()
        assert after.evaluate("image => image.naturalWidth") == 80
        drop(one, tmp_path / "broken.jpg")
        message = one.get_by_text("cannot read broken.jpg: not an image in a format")
        message.wait_for()
        assert "daisy" in one.get_by_text("daisy").first.inner_text()  # the page is still there
        browser.close()
    here = re.compile(rf"{url}|data:|blob:{url}")
    assert [address for address in asked if not here.match(address)] == []
    assert outside.asked == []


def drop(visitor, path: Path):
    chooser = visitor.locator(".tabitem:visible input[type=file]").first
    chooser.set_input_files(str(path))
