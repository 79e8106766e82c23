import importlib.util
import inspect
import re
from pathlib import Path

import jax
import pytest
from flax import traverse_util

from configs import common
from vit_jax import experiment, optim, schedules
from vit_jax.models import get_model, list_models
from vit_jax.models.published_images import CLIP_VALUES

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(
    path for path in (ROOT / "configs").glob("*.py") if "def get_config(" in path.read_text()
)
RUNS = [path for path in CONFIGS if path.stem not in ("common", "inference_time")]


def load(path, *argument):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*argument)


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_config_is_valid(path):
    experiment.validate_config(load(path))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_says_what_it_is(path):
    if path.stem == "common":
        return
    header = path.read_text().split('"""')[1]
    for word in ("Command:", "Hardware:", "Time:", "Score:", f"configs/{path.name}"):
        assert word in header, word


def leaf_keys(config, prefix=""):
    for key, value in config.items():
        if hasattr(value, "items") and key not in ("model", "args"):
            yield from leaf_keys(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def code_of(*patterns):
    paths = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    assert paths
    return "\n".join(path.read_text() for path in paths)


def unread(keys, code, handed_on):
    """Keys that no code reads: as `group.key`, or `config.key` where `config` is the group."""
    for key in keys:
        *groups, name = key.split(".")
        group = groups[-1] if groups else "config"
        where = handed_on.get(".".join(groups), "")
        if not re.search(rf"\b{group}\.{name}\b", code) and f"config.{name}" not in where:
            yield key


def test_every_key_is_read_somewhere():
    keys = list(leaf_keys(common.get_config()))
    assert len(keys) > 40
    code = code_of("vit_jax/**/*.py", "input_pipeline/**/*.py")
    handed_on = {
        "data": code_of("input_pipeline/**/*.py"),
        "data.masks": code_of("input_pipeline/sources/masks.py"),
        "optim": inspect.getsource(optim.make_optimizer) + inspect.getsource(optim._scale_by),
        "schedule": inspect.getsource(schedules),
    }
    assert not list(unread(keys, code, handed_on))
    assert list(
        unread(["gan.gamma", "optim.gamma", "data.weight", "gan.weight"], code, handed_on)
    ) == [
        "gan.gamma",
        "optim.gamma",
        "data.weight",
    ]


def test_the_model_of_each_config_fits_its_preprocessing():
    for path in RUNS:
        config = load(path)
        if config.data.kind == "classes":
            _check_size(config)


def _check_size(config):
    model = get_model(config.model_name, **config.model)
    for spec in (config.data.eval_pp, *re.findall(r"crop\(\d+", config.data.train_pp)[-1:]):
        size = int(re.findall(r"(?:resize|crop)\((\d+)", spec)[-1])
        assert size % model.stride == 0


def config(name, argument):
    return load(ROOT / "configs" / f"{name}.py", argument)


def test_published_finetuning():
    vit = config("vit", "b16,cifar10")
    assert (vit.model_name, vit.pretrained) == ("ViT-B_16", "ViT-B_16")
    assert (vit.batch_size, vit.accum_steps, vit.total_steps) == (512, 8, 10_000)
    assert (vit.optim.learning_rate, vit.optim.weight_decay, vit.optim.clip_norm) == (0.01, 0, 1)
    assert (vit.optim.name, vit.optim.momentum_dtype) == ("sgd", "bfloat16")
    assert (vit.schedule.name, vit.schedule.warmup_steps) == ("cosine", 500)
    assert vit.data.source == "tfds:cifar10"
    splits = [vit.data.tfds[f"{name}_split"] for name in ("train", "val", "test")]
    assert splits == ["train[:98%]", "train[98%:]", "test"]

    assert config("vit", "r50_l32,imagenet2012").model_name == "R50+ViT-L_32"
    assert config("vit", "l16,imagenet2012").total_steps == 20_000
    assert config("vit", "l16,cifar10").optim.learning_rate == 0.03
    assert "crop(392)" in config("vit", "H_14").data.train_pp  # 14 does not divide 384
    mixer = config("mixer", "b16,cifar10")
    assert (mixer.model_name, mixer.data.eval_pp.count("224")) == ("Mixer-B_16", 1)
    for argument in ("h14", "r_ti_16", "s32"):
        _check_size(config("vit", argument))


def test_augreg():
    best = config("augreg", "R_Ti_16")
    assert (best.model_name, best.pretrained) == ("R+ViT-Ti_16", "R_Ti_16")
    assert (best.total_steps, best.schedule.warmup_steps) == (500, 100)
    assert best.model.dropout_rate == 0
    name = "B_16-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0"
    file = config("augreg", f"{name},cifar100")
    assert (file.model_name, file.pretrained) == ("ViT-B_16", name)
    assert (file.data.source, file.total_steps) == ("tfds:cifar100", 500)


def test_augmentation_levels():
    levels = {
        "none": (0, ""), "light1": (0, "2, 0"), "light2": (0.2, "2, 10"), "medium1": (0.2, "2, 15"),
        "medium2": (0.5, "2, 15"), "strong1": (0.5, "2, 20"), "strong2": (0.8, "2, 20"),
    }  # fmt: skip
    for level, (alpha, randaug) in levels.items():
        run = config("vit_i1k", f"S_16,{level}")
        assert run.mixup_alpha == alpha
        assert re.findall(r"randaug\((.*?)\)", run.data.train_pp) == ([randaug] if randaug else [])


def test_visual_transformers():
    for variant in ("R18", "R34", "R50", "R101"):
        assert config("vt", variant).model_name == f"VT-{variant}"
    default = config("vt", "R18")
    assert (default.optim.name, default.optim.learning_rate) == ("sgd", 0.1)
    assert (default.batch_size, default.total_epochs) == (256, 90)
    epoch = 0.99 * 1_281_167 / 256
    for step, epochs in zip(default.schedule.milestones, (30, 60)):
        assert step == pytest.approx(epochs * epoch, abs=1)
    advanced = config("vt", "R50,advanced")
    assert (advanced.optim.name, advanced.schedule.name) == ("rmsprop", "exponential")
    assert advanced.optim.args.to_dict() == {"decay": 0.9, "momentum": 0.9, "eps": 1e-3}
    assert "autoaugment" in advanced.data.train_pp
    assert (advanced.ema_decay, advanced.distill.weight) == (0.99985, 0.8)
    for run in (default, advanced, config("vt", "R18,digits")):
        experiment.validate_config(run)


def test_two_towers():
    lit = config("lit", "b16b")
    assert (lit.model_name, lit.pretrained, lit.loss) == ("LiT-B16B", "B_16", "softmax")
    assert (lit.batch_size, lit.total_steps, lit.optim.name) == (4096, 5_000, "adamw")
    assert lit.optim.learning_rate * lit.optim.weight_decay == pytest.approx(0.01)
    assert re.search(lit.optim.freeze, "img/cls")
    assert not re.search(lit.optim.freeze, "img/pre_logits/kernel")
    assert lit.text.pretrained.endswith("bert-base-uncased")
    paper = config("lit", "L16Ti,paper")
    assert (paper.pretrained, paper.text.pretrained, paper.dont_load) == ("L_16", "", "")
    assert (paper.optim.name, paper.batch_size, paper.total_steps) == ("adafactor", 16_384, 60_000)
    clip = config("clip", "L_14")
    assert (clip.model_name, clip.optim.learning_rate) == ("CLIP-L_14", 4e-4)
    assert clip.optim.args.to_dict() == {"b1": 0.9, "b2": 0.98, "eps": 1e-6}
    siglip = config("siglip", "SigLIP2-B_16")
    assert (siglip.model_name, siglip.loss) == ("SigLIP2-B_16", "sigmoid")
    assert (siglip.optim.args.b2, siglip.total_steps) == (0.95, 1_220_703)
    own = config("captions", "SigLIP-B_16")
    assert (own.model_name, own.loss, own.data.eval_pp.count("224")) == (
        "SigLIP-B_16",
        "sigmoid",
        1,
    )
    for run in (lit, paper, clip, siglip, own):
        experiment.validate_config(run)


@pytest.mark.parametrize(
    ("name", "argument"), [("lit", "L16L,paper"), ("lit", "B16B"), ("clip", "B_32")]
)
def test_what_is_decayed_of_two_towers(name, argument):
    """No scale, no bias and no gain; of CLIP embeddings as well."""
    run = config(name, argument)
    model = get_model(run.model_name, num_layers=1, text_num_layers=1)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *model.inputs((224, 224)))["params"]
    names = ["/".join(path) for path in traverse_util.flatten_dict(shapes)]
    decayed = {path for path in names if re.search(run.optim.weight_decay_on, path)}
    assert {path.rpartition("/")[2] for path in decayed} <= {
        "kernel", "embedding", "pos_embedding"
    }  # fmt: skip
    assert ("txt/Embed_0/embedding" in decayed) == (name == "clip")
    optim.make_optimizer(run.optim, lambda step: 0.1, shapes)  # or raises


@pytest.mark.parametrize("tower", ["ViT-B_32-CLIP", "ViT-L_14-CLIP"])
def test_fine_tuning_of_a_tower_of_images_prepares_them_as_its_authors(tower):
    run = config("finetune", tower)
    assert run.model_name == tower
    assert run.pretrained.startswith("hf://openai/")
    for spec in (run.data.train_pp, run.data.eval_pp):
        assert spec.endswith(f"|{CLIP_VALUES}")
        assert "value_range" not in spec


@pytest.mark.parametrize(
    ("name", "model", "fields", "weights"),
    [
        ("vit_small_plus_patch16_dinov3", "DINOv3-S+_16", {"biases": ""}, "dinov3-s+_16-lvd1689m"),
        ("vit_base_patch16_clip_224.laion2b", "ViT-B_16-CLIP", {"activation": "gelu"},
         "hf://timm/vit_base_patch16_clip_224.laion2b"),
        ("vit_small_patch16_224.augreg_in21k", "ViT-S_16", {},
         "hf://timm/vit_small_patch16_224.augreg_in21k"),
        ("vit_base_patch16_224", "ViT-B_16", {}, "B_16"),
    ],
)  # fmt: skip
def test_fine_tuning_by_a_name_of_timm(name, model, fields, weights):
    run = config("finetune", name)
    assert (run.model_name, run.pretrained) == (model, weights)
    assert run.model.to_dict() == {"dropout_rate": 0.0, **fields}


def test_every_tower_of_images_has_a_place_of_its_weights():
    towers = [name for name in list_models() if re.fullmatch("ViT-.*-(CLIP|SigLIP)", name)]
    assert len(towers) == 9
    assert len({config("finetune", tower).pretrained for tower in towers}) == 9


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("lit", "B16S", "unknown LiT 'B16S'; .*there are: b16b, b16b2, l16l, l16s, l16ti"),
        ("lit", "B16B,long", "unknown recipe 'long'; .*there are: coco, paper"),
        ("clip", "B_8", "unknown CLIP 'B_8'; .*there are: b16, b32, l14, l14336"),
        ("vit", "b17", "unknown ViT 'b17'; .*there are: .*b16, "),
        ("vit", "b16,cifar", "unknown preset .* 'cifar'; did you mean 'cifar10'"),
        ("vit", "b16,cifar10,3", r"takes 2 argument\(s\)"),
        ("mixer", "b8", "unknown Mixer 'b8'; .*there are: b16, b32, l16"),
        ("finetune", "H_14", "AugReg has no ViT-H_14; there are: Ti_16"),
        ("vt", "R19", "unknown variant 'R19'; .*there are: R18, R34, R50, R101"),
        ("vt", "R18,short", "unknown recipe 'short'; .*there are: default, advanced"),
        ("vit_i1k", "B_16,hard", "unknown level 'hard'; .*there are: none, light1"),
    ],
)
def test_wrong_arguments(name, argument, message):
    with pytest.raises(ValueError, match=message):
        config(name, argument)
