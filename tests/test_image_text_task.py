"""The task of images and texts: figures, a run from end to end, weights for a tower of texts."""

import csv
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints import npz, torch, tree
from configs import common
from tests.helpers import COLORS, write_classes, write_image
from tests.runs import assert_same_runs
from vit_jax import evaluate, experiment, text_weights, train, weights, zero_shot_probe
from vit_jax.image_text_report import ImageTextReport
from vit_jax.models import get_model
from vit_jax.tasks import image_text as task
from vit_jax.workdir import Workdir

GOLDEN = np.load(Path(__file__).parent / "golden" / "image_text_losses.npz")
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "blue", "red", "thing",
         "something", "all", ".")  # fmt: skip
TINY_TEXT = dict(text_hidden_size=16, text_num_layers=1, text_num_heads=2, text_mlp_dim=32)
TINY = dict(
    TINY_TEXT, patch_size=4, hidden_size=16, num_layers=1, num_heads=2, mlp_dim=32,
    embedding_size=8, vocabulary_size=len(WORDS), text_length=6, tokenizer="bert(6)",
)  # fmt: skip


@pytest.fixture
def captioned(tmp_path):
    """Photos of two colours with a caption or two each, labelled ones, and a vocabulary."""
    pytest.importorskip("tokenizers")
    rows = [("image", "caption")]
    for split, count in (("train", 6), ("val", 3)):
        for i in range(count):
            for name, color in COLORS.items():
                file = f"{split}{i}{name}.png"
                write_image(tmp_path / "photos" / file, color, seed=i)
                rows.append((file, f"a {name} thing ."))
                if i == 1:
                    rows.append((file, f"something all {name} ."))
    with (tmp_path / "photos" / "captions.csv").open("w") as file:
        csv.writer(file).writerows(rows)
    for i, (name, color) in enumerate(COLORS.items()):
        write_image(tmp_path / "others" / f"{i}.png", color, seed=70)
        (tmp_path / "others" / f"{i}.txt").write_text(f"something {name}\na {name} photo\n")
    write_classes(tmp_path / "labelled" / "test", 5, start=50)
    write_classes(tmp_path / "labelled" / "train", 1)
    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS))
    return tmp_path


@pytest.fixture
def config(captioned):
    """A run of a few seconds."""
    config = common.get_config()
    config.model_name = "CLIP-B_32"
    config.model.update(TINY, text_pool="last", text_causal=False)
    config.data.kind = "captions"
    config.data.source = str(captioned / "photos")
    config.data.test_source = str(captioned / "others")
    config.data.val_fraction = 0.2
    config.data.train_pp = config.data.eval_pp = "decode|resize(8)|value_range(-1, 1)"
    config.text.vocabulary = str(captioned / "vocab.txt")
    config.image_text.zero_shot = str(captioned / "labelled")
    config.image_text.prompts = "a photo of a {} .|a {} thing"
    config.loss = "softmax"
    config.metrics = ("text_to_image/recall@1", "image_to_text/recall@1")
    config.best_metric = "zero_shot/accuracy"
    config.batch_size = 8
    config.total_steps = 8
    config.eval_every = 4
    config.log_every = 1
    config.optim.learning_rate = 3e-3
    return config


# Figures.


def test_recalls_of_a_split_whose_images_have_different_numbers_of_captions():
    image, text, owners = (GOLDEN[f"retrieval/{key}"] for key in ("image", "text", "text_image"))
    counts = np.bincount(owners)
    captions = np.ones((len(image), counts.max() + 2, image.shape[1]), np.float32)  # padded
    for i, count in enumerate(counts):
        captions[i, :count] = text[owners == i]
    out, batch = {"image": image, "captions": captions}, {"num_captions": counts}
    halves = [jax.tree.map(lambda x, i=i: x[i::2], (out, batch)) for i in range(2)]
    metrics = {}
    for direction in task.DIRECTIONS:
        for k in (1, 5, 10):
            name = f"{direction}/recall@{k}"
            metrics[name] = metric = task.get_metric(name, "softmax")
            each = np.concatenate([np.asarray(metric.each(*half)) for half in halves])
            assert metric.finish(each) == pytest.approx(float(GOLDEN[f"retrieval/{name}"]))
    assert len({metric.each for metric in metrics.values()}) == 1  # which is computed once


@pytest.mark.parametrize("diverged", [slice(0, 1), slice(1, 3), slice(0, 3)])
def test_a_model_that_has_diverged_finds_nothing(diverged):
    """NaN is not less than NaN, which is not to make it the best checkpoint, nor end the run."""
    embeddings = np.random.default_rng(0).normal(size=(4, 3, 8)).astype(np.float32)
    embeddings[:, diverged] = np.nan
    out = {"image": embeddings[:, 0], "captions": embeddings[:, 1:]}
    gathered = np.asarray(task.gather(out, {"num_captions": np.array([2, 1, 2, 2])}))
    np.testing.assert_array_equal(task.owners(gathered), [0, 0, 1, 2, 2, 3, 3])
    for direction, others in (("image_to_text", 7), ("text_to_image", 4)):
        np.testing.assert_array_equal(task.ranks(gathered, direction), others)


@pytest.mark.parametrize(
    "name", ["accuracy", "image_to_text", "image_to_text/recall@0", "text_to_image/recall@-1"]
)
def test_unknown_metrics(name):
    with pytest.raises(ValueError, match=r"unknown metric .* image_to_text and text_to_image"):
        task.get_metric(name, "softmax")


@pytest.mark.slow
def test_all_captions_of_an_image_are_embedded():
    model = get_model("CLIP-B_32", **TINY)
    random = np.random.default_rng(0)
    image = random.normal(size=(2, 8, 8, 3)).astype(np.float32)
    captions = random.integers(0, 14, (2, 3, 6)).astype(np.int32)
    variables = jax.jit(model.init)(jax.random.key(0), image, captions[:, 0])
    embed = jax.jit(lambda text: model.apply(variables, None, text)["text"])
    answer = jax.jit(task.make_answer(model, {}))
    out = answer(variables, {"image": image, "text": captions[:, 1], "captions": captions})
    for i in range(3):
        np.testing.assert_allclose(out["captions"][:, i], embed(captions[:, i]), atol=1e-6)
    np.testing.assert_array_equal(out["text"], out["captions"][:, 0])
    without = answer(variables, {"image": image, "text": captions[:, 1]})
    np.testing.assert_allclose(without["text"], out["captions"][:, 1], atol=1e-6)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(out)} == {2}


def test_the_scale_of_clip_is_kept_at_100():
    model = get_model("CLIP-B_32", **TINY)
    for scale, kept in ((99.0, 99.0), (101.0, 100.0)):
        params = model.constrain({"t": jnp.log(jnp.array([scale])), "img": 3})
        assert float(jnp.exp(params["t"][0])) == pytest.approx(kept, rel=1e-6)
        assert params["img"] == 3
    assert get_model("SigLIP-B_16", **TINY).constrain({"t": 9}) == {"t": 9}


# A run.


@pytest.mark.slow
def test_a_run_from_end_to_end(config, captioned):
    workdir = captioned / "run"
    config.update(total_steps=40, eval_every=20, log_every=20)
    figures = train.train_and_evaluate(config, workdir)
    assert figures["test"]["zero_shot/accuracy"] > 0.8  # 10 photos of the two colours
    assert (workdir / "vocabulary" / "vocab.txt").read_text().splitlines() == list(WORDS)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    evaluated = [line for line in lines if line["split"] in ("val", "test")]
    assert [line["step"] for line in evaluated[:2]] == [20, 40]
    assert all("zero_shot/accuracy" in line for line in evaluated)
    with (workdir / "report" / "test.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header[2:] == ["image_to_text rank", "captions", "text_to_image ranks"]
    assert [(row[0], row[3]) for row in rows] == [("0.png", "2"), ("1.png", "2")]
    assert figures["test"]["examples"] == 2
    assert figures["test"]["text_to_image/recall@1"] == 1
    assert (workdir / "report" / "likeness.png").stat().st_size > 5000
    assert "recall@10" in (workdir / "report" / "recalls.csv").read_text()

    # The same command evaluates what there is, and the accuracy is that of its definition.
    exp = experiment.build(Workdir(workdir).read_config())
    variables = {"params": tree.split(npz.load(workdir / "weights.npz"))["params"]}
    measure = evaluate.make_eval_step(exp).probes["zero_shot/accuracy"]
    assert measure(variables) == pytest.approx(figures["test"]["zero_shot/accuracy"])
    names = ("blue", "red")
    embed = jax.jit(exp.model.apply, static_argnames="train")
    classes = []
    for name in names:
        tokens = exp.tokenizer([f"a photo of a {name} .", f"a {name} thing"])
        classes.append(np.mean(embed(variables, None, tokens)["text"], axis=0))
    data, split = zero_shot_probe._open(exp.config, exp.mesh)
    assert (split, data.class_names) == ("test", names)
    right = []
    for batch in data.eval_batches(split):
        image = embed(variables, batch["image"], None)["image"]
        cosines = image @ np.array([c / np.linalg.norm(c) for c in classes]).T
        right += list((np.argmax(cosines, axis=1) == batch["label"])[batch["_mask"] > 0])
    assert measure(variables) == pytest.approx(np.mean(right))


@pytest.mark.slow
def test_accumulated_runs_are_those_of_the_whole_batch(config, captioned):
    config.image_text.update(zero_shot="", prompts="")
    config.best_metric = "loss"
    config.best_mode = "min"
    losses = []
    for steps in (1, 2):
        with config.unlocked():
            config.accum_steps = steps
        train.train_and_evaluate(config, captioned / f"run{steps}")
        lines = Workdir(captioned / f"run{steps}").read_metrics()
        losses.append([line["loss"] for line in lines])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


@pytest.mark.slow
def test_a_killed_run_continues_bit_for_bit(config, captioned, monkeypatch):
    with config.unlocked():
        config.checkpoint_every = 3
        config.optim.freeze = "^img/"
        config.model.text_dropout_rate = 0.1
    train.train_and_evaluate(config, captioned / "whole")
    monitor_train = train.Monitor.train

    def stop_after_5(monitor, step, metrics):
        monitor_train(monitor, step, metrics)
        if step == 5:
            raise RuntimeError("as if it were killed")

    monkeypatch.setattr(train.Monitor, "train", stop_after_5)
    with pytest.raises(RuntimeError):
        train.train_and_evaluate(config, captioned / "stopped")
    monkeypatch.setattr(train.Monitor, "train", monitor_train)
    train.train_and_evaluate(config, captioned / "stopped")
    assert_same_runs(captioned / "whole", captioned / "stopped")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.vocabulary_size": 15}, "the model has 15 pieces, and the vocabulary .* has 14"),
        ({"model.text_length": 7}, "takes texts of 7 pieces, and .*: --config.model.text_length=6"),
        ({"text.vocabulary": "/nowhere/vocab.txt"}, "/nowhere/vocab.txt"),
        ({"image_text.zero_shot": "/nowhere"}, r"zero_shot='/nowhere': .* no such folder"),
        ({"image_text.zero_shot": ""}, "image_text.prompts are for image_text.zero_shot, which"),
        ({"image_text.prompts": "a photo"}, "'a photo' must have {} once"),
        ({"metrics": ("accuracy",)}, "unknown metric 'accuracy' of images and texts"),
        ({"best_metric": "zero_shot/loss"}, "best_metric='zero_shot/loss' is not evaluated"),
        (
            {"data.kind": "classes", "data.source": "digits", "data.test_source": ""},
            "learns from examples with text, which those of",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(config, changes, message):
    for key, value in changes.items():
        *groups, last = key.split(".")
        group = config
        for name in groups:
            group = group[name]
        group[last] = value
    with pytest.raises(ValueError, match=message):
        evaluate.make_eval_step(experiment.build(config))


def test_settings_of_this_task_are_refused_for_others(digits_config):
    for key in ("zero_shot", "prompts"):
        other = digits_config.copy_and_resolve_references()
        other.image_text[key] = "x"
        with pytest.raises(ValueError, match=rf"image_text\.{key} is for the task image_text, and"):
            experiment.build(other)


def test_a_report_without_ranks_lists_the_losses(tmp_path):
    report = ImageTextReport(("a.png", "b.png"), None)
    each = {"loss": np.array([2.0, 1.0]), "index": np.array([1, 0])}
    assert report.choose(each) == ()
    report.gather()
    report.write(tmp_path, "val")
    assert (tmp_path / "val.csv").read_text() == "file,loss\na.png,1.000000\nb.png,2.000000\n"
    assert len(list(tmp_path.iterdir())) == 1


# Weights for the tower of texts.


def variables_of(model, seed=0):
    random = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *model.inputs((8, 8)))
    return jax.tree.map(lambda x: random.normal(size=x.shape).astype(np.float32), shapes)


BERT = dict(hidden_size=16, num_layers=1, num_heads=2, mlp_dim=32, vocabulary_size=14, length=6)


def lit(**fields):
    own = dict(TINY, text_kind="bert", text_pool="first", text_positions=6, **fields)
    return get_model("LiT-B16B", **own)


@pytest.mark.parametrize("is_torch", [False, True])
def test_a_bert_begins_the_tower_of_texts(tmp_path, is_torch):
    bert = get_model("BERT-base", **BERT)
    theirs, model = variables_of(bert), lit()
    if is_torch:
        from safetensors.numpy import save_file

        save_file(torch.to_state_dict(theirs, bert), tmp_path / "bert.safetensors")
        found = weights.read(tmp_path / "bert.safetensors")
    else:
        npz.save(tmp_path / "bert.npz", tree.merge(theirs))
        found = weights.read(tmp_path / "bert.npz")
    own = variables_of(model, 1)
    adapted = text_weights.adapt(found, own, model)["params"]
    jax.tree.map(np.testing.assert_array_equal, adapted["txt"]["bert"], theirs["params"]["encoder"])
    del adapted["txt"]["bert"], own["params"]["txt"]["bert"]
    jax.tree.map(np.testing.assert_array_equal, adapted, own["params"])


def test_the_texts_of_other_two_towers_begin_it(tmp_path):
    model = get_model("CLIP-B_32", **TINY)
    theirs, own = variables_of(model), variables_of(model, 1)
    npz.save(tmp_path / "clip.npz", tree.merge(theirs))
    found = weights.read(tmp_path / "clip.npz")
    adapted = text_weights.adapt(found, own, model, dont_load="^txt/head")["params"]
    kept = own["params"]["txt"].pop("head")
    jax.tree.map(np.testing.assert_array_equal, adapted["txt"].pop("head"), kept)
    del theirs["params"]["txt"]["head"]
    jax.tree.map(np.testing.assert_array_equal, adapted["txt"], theirs["params"]["txt"])
    np.testing.assert_array_equal(adapted["t"], own["params"]["t"])


def test_weights_that_are_no_tower_of_texts(tmp_path):
    vit = get_model("ViT-Ti_16", patch_size=4, hidden_size=16, num_layers=1, num_heads=2, mlp_dim=8)
    npz.save(tmp_path / "vit.npz", tree.merge(variables_of(vit)))
    found = weights.read(tmp_path / "vit.npz")
    with pytest.raises(ValueError, match="has no tower of texts as CLIP has it: take other"):
        text_weights.adapt(found, {}, get_model("CLIP-B_32", **TINY))
    with pytest.raises(ValueError, match="VisionTransformer has no tower of texts: leave it empty"):
        text_weights.adapt(found, {}, vit)
    shorter = dict(BERT, length=5)
    npz.save(tmp_path / "bert.npz", tree.merge(variables_of(get_model("BERT-base", **shorter))))
    found, own = weights.read(tmp_path / "bert.npz"), variables_of(lit())
    with pytest.raises(ValueError, match=r"txt/bert/position_embedding.*\(5, 16\).*\(6, 16\)"):
        text_weights.adapt(found, own, lit())


@pytest.mark.slow
def test_a_locked_image_tower_begins_with_one_weights_and_the_texts_with_others(config, tmp_path):
    vit = get_model(
        "ViT-B_16", patch_size=4, hidden_size=16, num_layers=1, num_heads=2, mlp_dim=32,
        num_classes=3,
    )  # fmt: skip
    images, texts = variables_of(vit), variables_of(get_model("BERT-base", **BERT), 1)
    npz.save(tmp_path / "vit.npz", tree.merge(images))
    npz.save(tmp_path / "bert.npz", tree.merge(texts))
    config.model_name = "LiT-B16B"
    config.model.update(text_kind="bert", text_pool="first", text_positions=6)
    del config.model["text_causal"]
    config.pretrained, config.text.pretrained = (
        str(tmp_path / f"{n}.npz") for n in ("vit", "bert")
    )
    config.dont_load = "^img/pre_logits"
    config.optim.freeze = "^img/(?!pre_logits)"
    exp = experiment.build(config)
    params = jax.device_get(exp.init_state().params)
    jax.tree.map(np.testing.assert_array_equal, params["txt"]["bert"], texts["params"]["encoder"])
    np.testing.assert_array_equal(params["img"]["cls"], images["params"]["cls"])
    assert "head" not in params["img"]
