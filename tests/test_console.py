"""What a terminal shows, and a file does not."""

import os
import pty
import subprocess
import sys
import termios

_RUN = """
import logging
from vit_jax.machinery import console
console.show_log()
logging.getLogger("vit_jax").info("news")
logging.getLogger("vit_jax").warning("a warning")
for _ in console.progress(range(3), mininterval=0):
    pass
"""
_GREEN, _YELLOW = "\033[32m", "\033[33m"


def _on_a_terminal(**environment):
    """What a program writes to a terminal that is its stderr."""
    master, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    env = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | environment
    subprocess.run([sys.executable, "-c", _RUN], stderr=terminal, env=env, check=True)
    os.close(terminal)
    shown = b""
    try:
        while part := os.read(master, 2**16):
            shown += part
    except OSError:  # Linux, when nobody writes to it any more
        pass
    os.close(master)
    return shown.decode()


def test_a_terminal_gets_a_bar_and_warnings_in_colour():
    shown = _on_a_terminal()
    assert "news\r\n" in shown
    assert f"{_YELLOW}a warning" in shown
    assert "3/3" in shown
    assert _GREEN in shown


def test_no_color_is_kept_to():
    shown = _on_a_terminal(NO_COLOR="1")
    assert "3/3" in shown
    assert "\033[3" not in shown


def test_a_file_gets_neither():
    result = subprocess.run(
        [sys.executable, "-c", _RUN], capture_output=True, text=True, check=True
    )
    assert result.stderr == "news\na warning\n"
