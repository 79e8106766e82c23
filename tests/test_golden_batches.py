"""Batches are those of before, bit for bit."""

import json
import re
from pathlib import Path

import pytest

from tests import golden_batches

GOLDEN = json.loads(golden_batches.GOLDEN.read_text())
SOON = ("classes, another order",)  # the others take long
MEASURED_ON = ("AuthenticAMD", True)  # whose sines, sums and fused products are of the last bit

SETTINGS = [
    pytest.param(name, marks=[] if name in SOON else [pytest.mark.slow])
    for name in golden_batches.SETTINGS
]


def cpu():
    """Whose it is, and whether it has AVX-512."""
    file = Path("/proc/cpuinfo")
    text = file.read_text() if file.exists() else ""
    vendor = re.search(r"vendor_id\s*: (\S+)", text)
    return (vendor[1] if vendor else "", " avx512f " in text)


@pytest.mark.skipif(cpu() != MEASURED_ON, reason="measured on another kind of CPU, to the last bit")
@pytest.mark.parametrize("name", SETTINGS)
def test_batches_are_those_of_before(name, tmp_path):
    """A run is continued by another version with the examples that it would have seen."""
    assert golden_batches.digests(name, tmp_path) == GOLDEN[name]


def test_every_setting_has_its_digests():
    """Those of data.cache are those of without it."""
    assert list(GOLDEN) == list(golden_batches.SETTINGS)
    cached = [name for name in GOLDEN if name.endswith(", cached")]
    assert len(cached) == 4
    for name in cached:
        assert GOLDEN[name] == GOLDEN[name.removesuffix(", cached")]
