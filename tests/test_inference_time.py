import json

import pytest

from configs import inference_time as config_file
from tests.helpers import TINY, TINY_MIXER
from vit_jax import inference_time


@pytest.fixture
def config():
    config = config_file.get_config()
    config.model.update(TINY, num_classes=3)
    config.image_size = (8, 16)
    config.batch_size = 4
    config.steps = 5
    return config


@pytest.mark.parametrize("name", ["ViT-B_16", "Mixer-B_16"])
def test_the_figures(config, name, tmp_path, capsys):
    if name == "Mixer-B_16":
        config.model_name = name
        config.model = dict(TINY_MIXER, num_classes=3)
    result = inference_time.run(config, tmp_path / "w")
    assert json.loads((tmp_path / "w" / "inference_time.json").read_text()) == result
    assert len(result["seconds"]) == 5
    assert result["devices"] == 2
    rates = result["images_per_s_and_device"]
    assert rates["min"] == pytest.approx(4 / 2 / max(result["seconds"]))
    assert rates["max"] == pytest.approx(4 / 2 / min(result["seconds"]))
    assert rates["min"] <= rates["median"] <= rates["max"]
    table = capsys.readouterr().out
    assert f"{rates['median']:.1f} per device" in table
    assert f"{name}, {result['parameters']:,} parameters" in table


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("steps", 0, "steps must be at least 1, not 0"),
        ("warmup_steps", -1, "warmup_steps must be at least 0"),
        ("batch_size", 3, r"batch_size=3 is not divisible by 2 device\(s\)"),
        ("image_size", (8,), r"image_size must be \(height, width\)"),
        ("image_size", (8, 9), "images of 8 x 9 pixels cannot be cut"),
        ("model_name", "ViT", "unknown model 'ViT'"),
    ],
)
def test_wrong_settings(config, tmp_path, key, value, message):
    with config.ignore_type():
        config[key] = value
    with pytest.raises(ValueError, match=message):
        inference_time.run(config, tmp_path)
