"""What does not fit a run, said in a line before anything is compiled."""

import logging

import pytest

from tests.helpers import pairs_config, tiny_digits_config, write_classes
from vit_jax import experiment


def test_a_restorer_for_classes_is_told_by_its_task_not_by_a_field_it_lacks():
    config = tiny_digits_config()
    config.model_name = "DehazeFormer-T"
    with pytest.raises(
        ValueError,
        match=r"DehazeFormer-T is for the task restore and learns from examples with target, which "
        "those of data.kind='classes' lack: set data.kind to pairs, degraded or .*model_name "
        "to a model for such data, as ViT-Ti_16, Mixer-B_16, Swin-T",
    ):
        experiment.build(config)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        (
            "ViT-Ti_16",
            "pairs",
            "task classify .* label, .*='pairs'.* DehazeFormer-T",
        ),
        ("CLIP-B_32", "classes", "image_text .* text, .* to captions, .* as ViT-Ti_16"),
        ("ViT-Ti_16", "translation", "to classes or multilabel, .* as Transformer-base$"),
    ],
)
def test_models_are_named_for_the_data_there_are(tmp_path, name, kind, message):
    config = pairs_config(tmp_path)
    config.model_name, config.data.kind = name, kind
    with pytest.raises(ValueError, match=message):
        experiment.build(config)


def test_a_crop_larger_than_the_images_is_the_cause_that_is_told(tmp_path):
    """And not what the model says to images of the crop's size."""
    config = tiny_digits_config()
    config.data.train_pp = "grayscale_to_rgb|random_crop(99)|value_range(-1, 1)"
    with pytest.raises(ValueError, match="random_crop of 99 x 99 from a smaller image of 8 x 8;"):
        experiment.build(config)
    for split in ("train", "val"):  # files, of which the sizes are known when they are read
        write_classes(tmp_path / split, 3)
    config.data.source = str(tmp_path)
    config.batch_size = 2
    right, wrong = "decode|resize(8)|value_range(-1, 1)", "decode|{}(99)|value_range(-1, 1)"
    for key, op in (("train_pp", "random_crop"), ("eval_pp", "central_crop")):
        config.data.update({"train_pp": right, "eval_pp": right, key: wrong.format(op)})
        with pytest.raises(ValueError, match=rf"png: {op} of 99 x 99 from a smaller image of \d+"):
            experiment.build(config)
        config.unlock()


def test_a_batch_larger_than_the_training_set_is_said(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    config = tiny_digits_config()
    for batch_size in (1256, 1258):  # of 1257 digits
        config.batch_size = batch_size
        experiment.build(config)
        config.unlock()
    (message,) = [text for text in caplog.messages if "batch_size" in text]
    assert message.startswith("batch_size=1258 is more than the 1257 examples to train on")
