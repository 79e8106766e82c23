import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints import torch, tree
from tests.golden_recipe import recipe_weights
from tests.helpers import noise
from vit_jax import ops
from vit_jax.models import MODELS, get_model
from vit_jax.models.swin import Swin

GOLDEN = np.load(Path(__file__).parent / "golden" / "upernet_swin.npz")
UPERNET = dict(encoder="Swin-golden", features=32, auxiliary_features=16, num_classes=6)


@pytest.fixture
def encoder(monkeypatch):
    """A small Swin by name."""
    fields = dict(embed_dim=24, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window_size=4)
    monkeypatch.setitem(MODELS, "Swin-golden", (Swin, fields))


def images_of(case):
    return (GOLDEN[f"{case}/image"].astype(np.float32) / 255 - 0.5) / 0.25


@pytest.mark.parametrize("case", ["large", "small"])
def test_golden_upernet(case, encoder):
    """Of `small`, the deepest maps are no larger than a window, and shifted all the same."""
    images, model = images_of(case), get_model("Swin-T-UPerNet", **UPERNET)
    variables = recipe_weights(model, images.shape[1:3], "mmsegmentation")
    apply = jax.jit(functools.partial(model.apply, capture_intermediates=True))
    logits, state = apply(variables, images)
    parts = state["intermediates"]
    maps = parts["backbone"]["__call__"][0]
    found = {f"act/stage{i}": x for i, x in enumerate(maps)}
    found["act/stage0"], found["act/stage1"] = maps[0][..., ::8], maps[1][..., ::2]
    found["act/psp"] = jax.nn.relu(parts["decode_head"]["bottleneck"]["bn"]["__call__"][0])
    found["logits"], found["aux_logits"] = logits, parts["auxiliary_head"]["__call__"][0]
    found["hf_logits_corner"] = ops.resize_bilinear(logits, images.shape[1:3])[:, :32, :32]
    steps = {"logits": 3, "act/stage0": 5, "act/stage1": 3, "act/stage2": 2, "hf_logits_corner": 4}
    for name, x in found.items():
        if f"{case}/{name}" not in GOLDEN:
            continue
        step = max(1, steps.get(name, 1) - (case == "small"))
        expected = GOLDEN[f"{case}/{name}"]
        np.testing.assert_allclose(
            x[:, ::step, ::step], expected, atol=3e-5 * expected.std(), err_msg=name
        )
