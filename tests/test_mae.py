"""The masked autoencoder, its losses and its task."""

import importlib
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import vit_jax
from checkpoints import npz, torch, tree
from configs import mae_folder
from input_pipeline import get_dataset
from tests import commands
from tests.golden_recipe import recipe_array
from tests.helpers import (
    data_config,
    noise,
    random_variables,
    write_classes,
    written_as_read,
)
from vit_jax import adapting, export, masked_images, ops, pretrained, train
from vit_jax import weights as weight_files
from vit_jax.models import get_model, tower_names
from vit_jax.workdir import Workdir

GOLDEN = dict(np.load(Path(__file__).parent / "golden" / "mae.npz"))
_MEAN, _STD = (np.array(v, np.float32) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
FIELDS = dict(
    patch_size=8, hidden_size=48, num_layers=2, num_heads=3, mlp_dim=192, decoder_hidden_size=32,
    decoder_num_layers=2, decoder_num_heads=4, decoder_mlp_dim=128,
)  # fmt: skip


def make(**fields):
    return get_model("MaskedAutoencoder-B_16", **{**FIELDS, **fields})


@pytest.fixture(scope="module")
def golden():
    """The model, its parameters by the golden's recipe, with positions, its images and noise."""
    model = make()
    images = (GOLDEN["image"] / np.float32(255) - _MEAN) / _STD
    names = json.loads(str(GOLDEN["names"]))
    state_dict = {name: recipe_array(name, tuple(shape)) for name, shape in names.items()}
    state_dict["pos_embed"] = GOLDEN["pos_embed"][None]
    params = torch.from_state_dict(state_dict, model)["params"]
    return model, params, images, GOLDEN["noise"]


def test_the_loss_and_its_gradient(golden):
    model, params, images, noise = golden

    def measure(loss):
        return jax.jit(jax.value_and_grad(lambda params: jnp.mean(
            loss(model.apply({"params": params}, images, noise=noise), {"image": images})
        )))(params)  # fmt: skip

    loss, grads = measure(masked_images.normalized_loss)
    np.testing.assert_allclose(loss, GOLDEN["loss_float64"], rtol=1e-6)
    plain, _ = measure(masked_images.pixel_loss)
    np.testing.assert_allclose(plain, GOLDEN["loss_plain_pixels"], rtol=1e-6)
    written = torch.to_state_dict({"params": grads}, model, "mae")
    for part, name in {
        "patch": "patch_embed.proj.weight", "mask_token": "mask_token", "cls": "cls_token",
        "decoder_pred": "decoder_pred.weight",
    }.items():  # fmt: skip
        expected = GOLDEN[f"grad_{part}"]
        np.testing.assert_allclose(
            written[name], expected, atol=1e-4 * np.abs(expected).max(), rtol=0, err_msg=name
        )


def test_what_is_masked_and_predicted(golden):
    model, params, images, noise = golden
    out, kept = model.apply({"params": params}, images, noise=noise, capture_intermediates=True)
    np.testing.assert_array_equal(out["mask"], GOLDEN["mask"])
    assert np.abs(out["pixels"] - GOLDEN["pred"]).max() <= 3e-5 * GOLDEN["pred"].std()
    latent = kept["intermediates"]["encoder"]["__call__"][0]
    assert np.abs(latent - GOLDEN["latent"]).max() <= 3e-5 * GOLDEN["latent"].std()


def test_positions_begin_as_its_authors_have_them():
    model = make()
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    table = params["encoder"]["Transformer"]["posembed_input"]["pos_embedding"]
    np.testing.assert_allclose(table[0], GOLDEN["pos_embed"], atol=1e-6)
    assert "posembed_input" not in params["decoder"]  # whose are no parameters
    waves = ops.sincos2d_position_embedding(4, 4, 32, endpoint=False)
    np.testing.assert_allclose(waves[0], GOLDEN["decoder_pos_embed"][1:], atol=1e-6)


def test_as_many_parameters_as_published():
    model = get_model("MaskedAutoencoder-B_16")
    shapes = jax.eval_shape(model.init, jax.random.key(0), *model.inputs((224, 224)))["params"]
    positions = 197 * 768
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 111_655_680 + positions


def test_initial_kernels():
    """Queries, keys and values as Xavier's of one matrix, patches as of a dense layer."""
    model = make(hidden_size=192, patch_size=8)
    params = jax.jit(model.init)(jax.random.key(1), jnp.zeros((1, 32, 32, 3)))["params"]
    encoder = params["encoder"]
    block = encoder["Transformer"]["encoderblock_0"]["MultiHeadDotProductAttention_1"]
    for kernel, inputs, outputs in (
        (block["key"]["kernel"], 192, 3 * 192),
        (block["out"]["kernel"], 192, 192),
        (encoder["embedding"]["kernel"], 192, 192),
    ):
        assert np.std(kernel) == pytest.approx((2 / (inputs + outputs)) ** 0.5, rel=0.03)
    assert np.std(encoder["cls"]) == pytest.approx(0.02, rel=0.2)


# Which patches are masked.


def test_an_evaluation_masks_an_image_alike_whatever_is_beside_it():
    model, images = make(), noise((3, 32, 32, 3))
    variables = random_variables(model, (32, 32))
    apply = jax.jit(model.apply)
    out = apply(variables, images)
    assert (out["mask"].sum(axis=1) == 12).all()
    assert len({row.tobytes() for row in np.asarray(out["mask"])}) == 3
    alone = apply(variables, images[1:2])
    np.testing.assert_array_equal(alone["mask"][0], out["mask"][1])
    np.testing.assert_allclose(alone["pixels"][0], out["pixels"][1], atol=1e-4)
    nearly = apply(variables, images * np.float32(1 + 1e-7))
    np.testing.assert_array_equal(nearly["mask"], out["mask"])


def test_training_masks_at_random():
    model, images = make(), noise((1, 32, 32, 3))
    variables = random_variables(model, (32, 32))
    masks = {
        model.apply(variables, images, train=True, rngs={"dropout": jax.random.key(i)})[
            "mask"
        ].tobytes()
        for i in range(3)
    }
    assert len(masks) == 3


def test_masked_patches_are_not_seen():
    model, images = make(), noise((2, 32, 32, 3))
    variables = random_variables(model, (32, 32))
    order = noise((2, 16), seed=3)
    out = model.apply(variables, images, noise=order)
    patches = masked_images.to_patches(images, out["pixels"])
    hidden = jnp.where(out["mask"][..., None] > 0, 7.0, patches)
    changed = masked_images._to_images(hidden, images.shape)
    again = model.apply(variables, changed, noise=order)
    np.testing.assert_array_equal(again["pixels"], out["pixels"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mask_ratio": 0.99}, "mask_ratio=0.99 leaves 0 of 16 patches"),
        ({"mask_ratio": 0.0}, "mask_ratio=0.0 leaves 16 of 16 patches"),
        ({"decoder_num_heads": 5}, "decoder_hidden_size=32 is not divisible by"),
        ({"patch_size": 7}, "cannot be cut into patches of 7 x 7"),
    ],
)
def test_wrong_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(make(**fields).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


@pytest.mark.parametrize("loss", masked_images.LOSSES)
def test_a_perfect_prediction_is_the_image(loss):
    images = noise((2, 16, 24, 3))
    like = jnp.zeros((2, 6, 192))
    mask = jnp.asarray([[1, 0, 1, 1, 0, 1], [0, 1, 1, 1, 1, 0]], jnp.float32)
    patches = masked_images.to_patches(images, like)
    np.testing.assert_array_equal(patches[1, 4], images[1, 8:, 8:16].ravel())
    deviation = patches.std(axis=-1, keepdims=True, ddof=1)
    normalized = (patches - patches.mean(axis=-1, keepdims=True)) / deviation
    out = {"pixels": normalized if loss == "normalized_pixels" else patches, "mask": mask}
    np.testing.assert_allclose(masked_images.LOSSES[loss](out, {"image": images}), 0, atol=1e-6)
    seen, filled = masked_images.reconstruct(out, images, loss)
    np.testing.assert_allclose(filled, images, atol=1e-5)
    assert (np.ptp(seen[0, :8, :8], axis=(0, 1)) == 0).all()
    np.testing.assert_array_equal(seen[0, :8, 8:16], images[0, :8, 8:16])


# Files of weights.


@pytest.mark.parametrize("naming", ["", *tower_names.MAE_NAMINGS])
def test_the_encoder_of_a_file_begins_a_vit(naming, tmp_path):
    model = make()
    variables = random_variables(model, (32, 32))
    path = tmp_path / ("a.safetensors" if naming else "a.npz")
    if naming:
        torch.write(path, torch.to_state_dict(variables, model, naming))
    else:
        npz.save(path, variables["params"])
    weights = weight_files.read(path)
    whole = tree.split(weights.tree(model))
    jax.tree.map(np.testing.assert_array_equal, whole, variables)

    fields = {k: v for k, v in FIELDS.items() if not k.startswith("decoder")}
    vit = get_model("ViT-B_16", **fields, num_classes=3, activation="gelu", classifier="gap",
                    class_token=True, head_norm=True)  # fmt: skip
    init = jax.tree.map(np.asarray, vit.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    params = adapting.adapt(weights, init, vit, (32, 32))["params"]
    encoder = variables["params"]["encoder"]
    for part in ("cls", "embedding"):
        jax.tree.map(np.testing.assert_array_equal, params[part], encoder[part])
    del encoder["Transformer"]["encoder_norm"]
    jax.tree.map(np.testing.assert_array_equal, params["Transformer"], encoder["Transformer"])
    np.testing.assert_array_equal(params["head_norm"]["scale"], 1)


def test_a_config_beside_a_file_says_heads_and_loss(tmp_path):
    path = tmp_path / "a.safetensors"
    torch.write(path, torch.to_state_dict(random_variables(make(), (32, 32)), make(), "mae"))
    with pytest.raises(ValueError, match="and a num_heads and a decoder_num_heads which it does"):
        pretrained.load(path)
    config = dict(model_type="vit_mae", num_attention_heads=3, decoder_num_attention_heads=4)
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = pretrained.load(path)
    assert loaded.model == make()
    assert loaded.loss == "pixels"
    (tmp_path / "config.json").write_text(json.dumps({**config, "norm_pix_loss": True}))
    assert pretrained.load(path).loss == "normalized_pixels"


@pytest.mark.slow
def test_a_file_is_found_to_be_one(tmp_path):
    model = get_model("MaskedAutoencoder-Ti_16", decoder_num_layers=2)
    shapes = tree.shapes(model, (224, 224))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    npz.save(tmp_path / "a.npz", zeros)
    weights = weight_files.read(tmp_path / "a.npz")
    assert (
        pretrained.what_fits(weights) == "It fits MaskedAutoencoder-Ti_16 with decoder_num_layers=2"
    )


def test_it_is_exported(tmp_path):
    images = noise((3, 32, 32, 3))
    npz.save(tmp_path / "a.npz", random_variables(make(), (32, 32))["params"])
    model = pretrained.load(tmp_path / "a.npz", "MaskedAutoencoder-B_16", FIELDS)
    (part,) = export.parts_of(model)
    export.write_stablehlo(part, tmp_path / "new" / "a.stablehlo")
    expected = model.model.apply(model.variables, images)["pixels"]
    found = export.read_stablehlo(tmp_path / "new" / "a.stablehlo")(images)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    with pytest.raises(ValueError, match="jax2onnx cannot write MaskedAutoencoder-B_16"):
        export.write_onnx(part, tmp_path / "a.onnx")


# A training on a folder of photos.


def make_config(source):
    config = mae_folder.get_config()
    config.model.update(FIELDS)
    config.data.source = str(source)
    config.data.train_pp = "decode|inception_crop(32)|normalize()"
    config.data.eval_pp = "decode|resize(32)|normalize()"
    config.batch_size = 4
    config.total_epochs, config.schedule.warmup_epochs, config.eval_every = 1.6, 0.0, 2
    return config


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    write_classes(folder / "train", 6)
    write_classes(folder / "test", 2, start=6)
    return folder


def open_photos(folder):
    return get_dataset(data_config(folder, "photos"), batch_size=2, seed=0)


def test_photos_are_found_wherever_they_lie(photos):
    data = open_photos(photos)
    assert data.splits["train"].num_examples + data.splits["val"].num_examples == 12
    assert data.splits["test"].names == ("6.png", "7.png", "6.png", "7.png")
    assert data.keys == ("image",)


def test_a_folder_that_is_moved_has_the_same_splits(photos, tmp_path, caplog):
    caplog.set_level("INFO")
    moved = shutil.copytree(photos / "train", tmp_path / "moved")
    before, after = (
        {name: split.names for name, split in open_photos(folder).splits.items()}
        for folder in (photos / "train", moved)
    )
    assert before == after
    assert f"of {6 * 2} training photos are split off as val" in caplog.text


def test_a_folder_without_photos(tmp_path):
    (tmp_path / "a.txt").write_text("none")
    with pytest.raises(ValueError, match="holds no images"):
        open_photos(tmp_path)


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mae") / "run"
    return Workdir(folder), train.train_and_evaluate(make_config(photos), folder)


@pytest.mark.slow
def test_positions_stay_as_they_are(trained):
    workdir, figures = trained
    assert 0 < figures["test"]["loss"] < 3
    params = npz.load(workdir.weights)
    table = params["encoder"]["Transformer"]["posembed_input"]["pos_embedding"]
    np.testing.assert_allclose(table[0], GOLDEN["pos_embed"], atol=1e-6)
    assert np.abs(params["mask_token"]).max() > 0


@pytest.mark.slow
def test_it_resumes_bit_for_bit(trained, photos, tmp_path):
    old, figures = trained
    workdir = Workdir(shutil.copytree(old.path, tmp_path / "run"))
    whole = npz.load(workdir.weights)
    shutil.rmtree(workdir.checkpoints / "4")  # as if it had been stopped after step 2
    workdir.weights.unlink()
    assert train.train_and_evaluate(make_config(photos), workdir.path) == figures
    jax.tree.map(np.testing.assert_array_equal, npz.load(workdir.weights), whole)


@pytest.mark.slow
def test_pictures_probes_and_fine_tuning(trained, photos, tmp_path):
    workdir, _ = trained
    out = tmp_path / "out"
    result = commands.run(
        "predict", f"--workdir={workdir.path}", f"--output={out}", photos / "test"
    )
    assert result.returncode == 0, result.stderr
    assert "(loss " in result.stdout
    with Image.open(out / "blue" / "6.png") as picture:
        assert picture.size == (3 * 32 + 8, 32)
    assert vit_jax.load(workdir.path)(photos / "test" / "red" / "7.png").size == (32, 32)

    result = commands.run("probe", photos, f"--workdir={workdir.path}", "--shots=1")
    assert result.returncode == 0, result.stderr
    assert "48 features" in result.stdout

    config = mae_folder.get_config("finetune")
    config.model.update({k: v for k, v in FIELDS.items() if not k.startswith("decoder")})
    config.pretrained, config.data.source = str(workdir.path), str(photos)
    config.data.train_pp = config.data.eval_pp = "decode|resize(32)|normalize()"
    config.batch_size, config.total_epochs, config.schedule.warmup_epochs = 4, 2.0, 0.0
    figures = train.train_and_evaluate(config, tmp_path / "tuned")
    assert 0 <= figures["test"]["accuracy"] <= 1


@pytest.mark.parity
def test_transformers_has_the_same(tmp_path):
    importlib.import_module("tests.torchvision_operators")
    import safetensors.numpy
    import torch as pytorch
    import transformers

    config = transformers.ViTMAEConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=192,
        image_size=32, patch_size=8, decoder_hidden_size=32, decoder_num_hidden_layers=2,
        decoder_num_attention_heads=4, decoder_intermediate_size=128, layer_norm_eps=1e-6,
        norm_pix_loss=True,
    )  # fmt: skip
    theirs = transformers.ViTMAEForPreTraining(config).eval()
    images, order = noise((2, 32, 32, 3)), noise((2, 16), seed=1)
    with pytorch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "position" not in name and "pos_embed" not in name:
                parameter.add_(0.1 * pytorch.randn(parameter.shape))
        # A new model of theirs has zeros there, and a published one sines.
        theirs.decoder.decoder_pos_embed[:] = pytorch.from_numpy(GOLDEN["decoder_pos_embed"])
        expected = theirs(
            pytorch.from_numpy(images.transpose(0, 3, 1, 2)), noise=pytorch.from_numpy(order)
        )
    theirs.save_pretrained(tmp_path)
    state_dict = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    model = make()
    variables = torch.from_state_dict(state_dict, model)
    out = jax.jit(model.apply)(variables, images, noise=order)
    predicted = expected.logits.numpy()
    assert np.abs(out["pixels"] - predicted).max() <= 2e-5 * predicted.std()
    np.testing.assert_array_equal(out["mask"], expected.mask.numpy())
    loss = masked_images.normalized_loss(out, {"image": images}).mean()
    np.testing.assert_allclose(loss, expected.loss.item(), rtol=1e-5)

    assert written_as_read(variables, model, state_dict).startswith("transformers")
