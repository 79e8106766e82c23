"""What the README and the pages of docs/ name is there: links, files, modules, targets, keys."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

import vit_jax
from configs import common
from vit_jax.models import list_models

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *DOCS]
PUBLIC = [f"vit_jax.{name}" for name in vit_jax.__all__]
FOLDERS = ("vit_jax", "configs", "input_pipeline", "checkpoints", "tests", "notebooks", "docs")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def without_code(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def pieces_of_code(text):
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return blocks + re.findall(r"`([^`\n]+)`", without_code(text))


def links(text):
    prose = re.sub(r"`[^`\n]*`", "", without_code(text))
    found = re.findall(r"\]\(([^()\s]+)\)", prose)
    return [link for link in found if not re.match(r"\w+:", link)]


def anchors(text):
    """As GitHub makes them of the headings."""
    headings = re.findall(r"^#+ +(.*?) *$", without_code(text), flags=re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    before = [plain[:i].count(anchor) for i, anchor in enumerate(plain)]
    return [f"{anchor}-{count}" if count else anchor for anchor, count in zip(plain, before)]


def paths(text):
    """Paths in the repository, but for those with a placeholder in capitals."""
    found = re.findall(rf"(?<![\w./@-])((?:{'|'.join(FOLDERS)})/[\w./-]*)", text)
    return [path.rstrip(".") for path in found if not re.search(r"\b[A-Z]{2,}\b", path)]


def commands(text):
    return re.findall(r"\bpython3? -m ([a-z_][\w.]*\w)", text)


def modules(text):
    """Of dotted names such as vit_jax.models.get_model what a module must be: vit_jax.models."""
    packages = "|".join(FOLDERS[:4])
    return re.findall(rf"(?<![\w./-])((?:{packages})\.[a-z]\w*)", text)


def targets(text):
    """Of make, at the beginning of a line or of an inline piece of code."""
    pattern = re.compile(r"^make (?:[A-Z_]+=\S+ )*([a-z][a-z-]*)", flags=re.MULTILINE)
    return [target for code in pieces_of_code(text) for target in pattern.findall(code)]


def keys(text):
    return re.findall(r"--config\.([a-z]\w*(?:\.[a-z]\w*)*)", text)


def is_key(key):
    """Whether common.py has the key; what is under the model and optim.args is theirs to know."""
    if re.match(r"(model|optim\.args)\.", key):
        return True
    value = common.get_config()
    for part in key.split("."):
        if not isinstance(value, ConfigDict) or part not in value:
            return False
        value = value.get(part)
    return True


def has_module(name, of_package="__init__.py"):
    if name in PUBLIC:
        return True
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / of_package).exists()


def has_command(name):
    if name.split(".")[0] in FOLDERS:
        return has_module(name, of_package="__main__.py")
    return importlib.util.find_spec(name) is not None


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) < 150
    assert [line for line in lines if len(line) > 100] == []
    assert "`make test`" in (ROOT / "README.md").read_text()


def test_the_index_has_every_page():
    index = links((ROOT / "docs" / "README.md").read_text())
    assert set(index) == {page.name for page in DOCS} - {"README.md"}


@every_page
def test_links(page):
    for link in links(page.read_text()):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


@every_page
def test_paths(page):
    for path in paths(page.read_text()):
        assert (ROOT / path).exists(), path


@every_page
def test_commands(page):
    for name in commands(page.read_text()):
        assert has_command(name), name


@every_page
def test_modules(page):
    for name in modules(page.read_text()):
        assert has_module(name), name


@every_page
def test_make_targets(page):
    makefile = (ROOT / "Makefile").read_text()
    for target in targets(page.read_text()):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


@every_page
def test_config_keys(page):
    for key in keys(page.read_text()):
        assert is_key(key), key


def test_sizes_of_models():
    text = (ROOT / "docs" / "weights.md").read_text()
    rows = re.findall(r"^\| `(.+?)` \| ([\d,]+) \|$", text, flags=re.MULTILINE)
    assert {name: int(count.replace(",", "")) for name, count in rows} == list_models()


def test_what_is_found():
    """The functions above, which would find nothing wrong if they found nothing."""
    text = (
        "# A GPU's `key`, or two\n## Again\n## Again\n"
        "[a](b.md#c), [d](https://e.f), `[g](h)`, `configs/gone.py:T`, configs/NAME.py,\n"
        "`make gone`, to make sense; `--config.data.gone=1`, `--config.KEY`, github/docs/x\n"
        "```sh\n# No heading\nmake BIG=1 also-gone # make it\npython -m vit_jax.gone -x\n```\n"
    )
    assert links(text) == ["b.md#c"]
    assert anchors(text) == ["a-gpus-key-or-two", "again", "again-1"]
    assert paths(text) == ["configs/gone.py"]
    assert sorted(targets(text)) == ["also-gone", "gone"]
    assert commands(text) == ["vit_jax.gone"]
    assert modules(text) == ["vit_jax.gone"]
    assert modules("`vit_jax.models.vit.ViT`, ~/.cache/vit_jax.") == ["vit_jax.models"]
    assert [has_module(f"vit_jax.{name}") for name in ("gone", "main", "models")] == [
        False, True, True,
    ]  # fmt: skip
    assert [has_command(name) for name in ("vit_jax.models", "vit_jax.benchmark", "pytest")] == [
        False, True, True,
    ]  # fmt: skip
    assert keys(text) == ["data.gone"]
    assert [is_key(key) for key in ("data.gone", "data.source", "seed.x", "model.any")] == [
        False, True, False, True,
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if "<!-- tested -->" in page.read_text()], ids=lambda p: p.name
)
def test_what_is_marked_as_tested_runs(page, tmp_path):
    """In their order, in an empty folder."""
    pattern = r"^<!-- tested -->\n```(\w+)\n(.*?)^```$"
    pieces = re.findall(pattern, page.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(pieces) == page.read_text().count("<!-- tested -->")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for language, code in pieces:
        start = [sys.executable, "-c"] if language == "python" else ["bash", "-euc"]
        result = subprocess.run(
            [*start, code], cwd=tmp_path, env={**os.environ, "PATH": path},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert result.returncode == 0, f"{code}\n{result.stderr}"


# Pages that are made of the code, or quote it.


def test_the_page_of_all_keys_is_that_of_the_code():
    spec = importlib.util.spec_from_file_location("write", ROOT / "docs/write_configuration.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (ROOT / "docs/configuration.md").read_text()
    assert page == module.make_page(), "make docs writes it anew"
    names = {key.name.removesuffix(".") for key in module.read()}
    assert names == {name for name in names if is_key(name)}
    assert names >= set(flat_keys(common.get_config()))
    silent = [key.name for key in module.read() if not key.text]
    assert not silent, "a comment in configs/common.py says what they mean"


def flat_keys(config, before=""):
    for name in config:
        value = config.get(name)
        if isinstance(value, ConfigDict):
            yield from flat_keys(value, f"{before}{name}.")
        else:
            yield before + name


def test_messages_that_people_meet_are_those_of_the_code():
    text = (ROOT / "docs/troubleshooting.md").read_text()
    of_others = {"ResolutionImpossible"}
    quoted = re.findall(r"^\| `([^`]+)`", text, re.M)
    sources = [ROOT / "Makefile", *(p for f in FOLDERS[:4] for p in (ROOT / f).rglob("*.py"))]
    code = "\n".join(path.read_text() for path in sources)
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # strings over several lines
    pieces = {piece.strip() for message in quoted for piece in message.split("...")} - {""}
    assert len(pieces) > 15
    assert {piece for piece in pieces if piece not in code} == of_others
