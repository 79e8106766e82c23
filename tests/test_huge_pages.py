"""Commands ask Linux for large pages of memory."""

import os
import sys
import types

import pytest

from vit_jax.machinery import huge_pages

_VARIABLE = "GLIBC_TUNABLES"


@pytest.fixture
def begun(monkeypatch, tmp_path):
    """What would begin anew, of a command on a Linux that has to be asked."""
    setting = tmp_path / "enabled"
    setting.write_text("always [madvise] never\n")
    monkeypatch.setattr(huge_pages, "_LINUX", setting)
    spec = types.SimpleNamespace(name="vit_jax.main")
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-O", "-m", "vit_jax.main", "--workdir=W"])
    monkeypatch.setattr(sys, "gettrace", lambda: None)
    monkeypatch.delenv(_VARIABLE, raising=False)
    commands = []
    monkeypatch.setattr(os, "execv", lambda path, command: commands.append((path, command)))
    yield commands
    os.environ.pop(_VARIABLE, None)


def test_a_command_begins_anew_once(begun):
    huge_pages.ask_for()
    arguments = ["-O", "-m", "vit_jax.main", "--workdir=W"]
    assert begun == [(sys.executable, [sys.executable, *arguments])]
    assert os.environ[_VARIABLE] == "glibc.malloc.hugetlb=1"
    huge_pages.ask_for()  # as the process that began does
    assert len(begun) == 1


@pytest.mark.parametrize("setting", ["[always] madvise never", "always madvise [never]", None])
def test_where_nothing_has_to_be_asked(begun, setting):
    path = huge_pages._LINUX
    path.unlink() if setting is None else path.write_text(setting)
    huge_pages.ask_for()
    assert not begun


def test_who_is_left_alone(begun, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "orig_argv", ["python", "-m", "pytest", "vit_jax.main"])
        huge_pages.ask_for()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "gettrace", lambda: print)
        huge_pages.ask_for()
    monkeypatch.setenv(_VARIABLE, "")
    huge_pages.ask_for()
    assert not begun
