"""How well two towers classify by words, while they are trained: labelled images, and prompts."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import ops, prompts
from vit_jax.class_embeddings import embed_classes
from vit_jax.evaluate import EvalStep, evaluate_each
from vit_jax.experiment import Experiment
from vit_jax.machinery import sharding
from vit_jax.tasks.base import Batch

_LOG = logging.getLogger(__name__)

_TFDS = "tfds:"


def make(experiment: Experiment) -> Callable[[Any], float]:
    """Makes the accuracy on `config.image_text.zero_shot`, a function of a model's variables.

    Classes are named as their folders, with blanks for underscores, and put into
    `config.image_text.prompts`. The images are those of the folder's test, or its val, or all; and
    they are prepared by `config.data.eval_pp`.

    Raises:
        ValueError: for images that cannot be used, or without a tokenizer.
    """
    config, mesh = experiment.config, experiment.mesh
    model: Any = experiment.model  # mypy takes what it returns for an array
    tokenizer = experiment.tokenizer
    if tokenizer is None:
        raise ValueError("image_text.zero_shot needs a model with a tokenizer, to read its classes")
    data, split = _open(config, mesh)
    names = [prompts.readable(name) for name in data.class_names]
    templates = prompts.find(config.image_text.prompts)
    _LOG.info("%s: %d images of %d classes by %d prompt(s)", config.image_text.zero_shot,
              data.splits[split].num_examples, len(names), len(templates))  # fmt: skip
    whole, rows = sharding.replicated(mesh), sharding.batch_sharding(mesh)

    def embed_text(variables: Any, tokens: jax.Array) -> jax.Array:
        return model.apply(variables, None, tokens, train=False)["text"]

    def classify(given: Any, batch: Batch) -> Any:
        variables, classes = given
        image = model.apply(variables, batch["image"], None, train=False)["image"]
        is_right = jnp.argmax(image @ classes.T, axis=-1) == batch["label"]
        return {"accuracy": is_right.astype(jnp.float32), "_mask": batch["_mask"]}, {}

    options = ops.compiler_options()
    embed = jax.jit(embed_text, out_shardings=whole, compiler_options=options)
    classify = jax.jit(classify, out_shardings=(whole, rows), compiler_options=options)
    step = EvalStep(classify, {"accuracy": np.mean})

    def accuracy(variables: Any) -> float:
        classes = embed_classes(
            functools.partial(embed, variables), tokenizer.of_prompts, names, templates
        )
        each = evaluate_each(step, (variables, classes), data.eval_batches(split), mesh)
        return float(np.mean(each["accuracy"]))

    return accuracy


def _open(config: Any, mesh: jax.sharding.Mesh) -> tuple[Any, str]:
    """The labelled images, and the name of the split to look at."""
    from input_pipeline import Shard, get_dataset

    source = config.image_text.zero_shot
    wanted = config.data.copy_and_resolve_references().unlock()
    wanted.update(
        source=source, kind="classes", test_source="", val_fraction=0.0, cache=False,
        train_pp=config.data.eval_pp, val_pp="",
    )  # fmt: skip
    if source.startswith(_TFDS):
        name, _, split = source.removeprefix(_TFDS).partition(":")
        wanted.source = f"{_TFDS}{name}"
        wanted.tfds.update(train_split=split or "test", val_split="", test_split="")
    shard = Shard(jax.process_index(), jax.process_count())
    try:
        data = get_dataset(wanted, config.batch_size, config.seed, shard, mesh.size)
    except ValueError as error:
        raise ValueError(f"image_text.zero_shot={source!r}: {error}") from None
    return data, next(split for split in ("test", "val", "train") if split in data.splits)
