"""The contract between a model and the rest of the code."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

Shapes = Mapping[str, tuple[int, ...]]


class Model(nn.Module):
    """What all models derive from: everything that the rest of the code asks of one.

    A model says its `task`, has a field `dtype`, and computes `model.apply(variables, *inputs,
    train=False)`. The rest is here as it holds for a model that does not say otherwise, in its
    class or by a field.

    Attributes:
        task: name of what it is trained for, one of `vit_jax.tasks.TASKS`.
        input_values: the last op of the preprocessing that its published weights expect; "" where
            a plain resize and value_range(-1, 1) will do.
        tokenizer: what makes tokens of the texts that it takes, if it takes any: see
            `input_pipeline.tokenizers.make_tokenizer`.
        any_size: whether images are given to it at their own size, and not all resized to one.
        upscale: how many times higher and wider than the image its output is.
        tile_multiple: what must divide the sides of an image's tiles, and where they begin, for
            them to have the windows of the whole image.
        in_channels: of what it looks at; images have three all the same.
        metrics: that its paper reports; () are the task's.
        torch_namings: whose names its weights can have in PyTorch's files, if there are several;
            the one to write comes first.
        torch_buffers: ends of names in such files that are no weights.
        torch_aliases: ends of names in old ones of them, and what they are today.
        naming_fields: fields with which all published weights of a naming were trained.
        must_be_told: fields that neither the weights show nor a default may decide, where nothing
            that comes with them says so; and what to say, for whom.
        has_twins: whether published ones differ in nothing that weights show, of which then the
            first is taken, see `vit_jax.identify`.
        deepest: fields with more blocks than any file has, see `vit_jax.identify`.
        class_heads: names of the submodules that give each class a number; they are learned anew
            where the classes are others. Where there are several, the first has as many outputs as
            there are classes.
        token_table: path of the embedding of tokens, if its rows are the `vocabulary_size` that the
            data may decide.
        feature_strides: pixels per position, along either axis, of the feature maps that it gives
            to dense tasks, the finest first; () if it has none. One that has some takes
            `feature_maps=True` in its call, and returns a tuple of them, each (b, h, w, c) with the
            sides of the image by its stride, rounded up.
        onnx: whether jax2onnx can write it.
        backbone_model: the model whose layers its submodules `backbones` have, all or some of them,
            and whose weights may therefore begin them; None if it has no such submodule.
        backbones: paths of these submodules.
    """

    task = ""
    input_values = ""
    tokenizer = ""
    any_size = False
    upscale = 1
    in_channels = 3
    onnx = True
    metrics: ClassVar[tuple[str, ...]] = ()
    torch_namings: ClassVar[tuple[str, ...]] = ()
    torch_buffers: ClassVar[tuple[str, ...]] = ()
    torch_aliases: ClassVar[Mapping[str, str]] = {}
    naming_fields: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    must_be_told: ClassVar[Mapping[str, str]] = {}
    has_twins = False
    deepest: ClassVar[Mapping[str, Any]] = {}
    class_heads: ClassVar[tuple[str, ...]] = ("head",)
    token_table = ""
    backbones: ClassVar[tuple[str, ...]] = ("backbone",)

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """See the class."""
        return ()

    @property
    def usual_size(self) -> tuple[int, int]:
        """Height and width in pixels of the images that it is counted and tried with."""
        return (64, 64) if self.any_size else (224, 224)

    @property
    def backbone_model(self) -> "Model | None":
        """See the class."""
        return None

    def as_backbone(self) -> "Model":
        """The form in which it gives feature maps to dense tasks; its weights suit either."""
        return self

    @property
    def tile_multiple(self) -> int:
        """See the class."""
        return 1

    @classmethod
    def has_field(cls, name: str) -> bool:
        """Whether models of this class have a field of that name, such as num_classes."""
        return name in {field.name for field in dataclasses.fields(cls)}

    def values_of(self, names: Iterable[str]) -> dict[str, Any]:
        """The values of some fields, as far as the model has them."""
        return {name: getattr(self, name) for name in names if self.has_field(name)}

    def inputs(self, image_size: tuple[int, int]) -> tuple[jax.ShapeDtypeStruct, ...]:
        """What a call takes, for one example.

        Args:
            image_size: (h, w) in pixels.
        """
        return (jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32),)

    def preprocessing(self, size: tuple[int, int]) -> str:
        """How published weights have images prepared, where `input_values` does not say all of it.

        Args:
            size: (h, w) of the images in pixels.

        Returns:
            A string of `input_pipeline.preprocess`, beginning with `decode`; "" for the usual way.
        """
        del size
        return ""

    @property
    def input_limits(self) -> tuple[int, ...]:
        """Of each input, below which the whole numbers in it lie; 0 for images. () is all 0."""
        return ()

    def image_size(self, params: Mapping[str, Any]) -> tuple[int, int]:
        """Height and width of the square images that parameters were made for.

        Where any size will do, one that they can be tried with.

        Raises:
            KeyError: for what they lack.
            ValueError: if they were made for no square.
        """
        del params
        return 64, 64

    def resize_params(
        self, params: Mapping[str, Any], old_size: tuple[int, int], new_size: tuple[int, int]
    ) -> dict[str, Any]:
        """Fits parameters that were made for images of one (h, w) to those of another.

        Raises:
            ValueError: if that cannot be.
        """
        del old_size, new_size
        return dict(params)

    def constrain(self, params: Any) -> Any:
        """What parameters become after each step of the optimizer, such as within bounds."""
        return params

    def layer_patterns(self) -> tuple[str, ...]:
        """Regular expressions that find parameters by their paths, one for each layer.

        The layers are in their order, the stem first; a parameter is of the first that finds it.
        What none finds comes after all of them, such as the head.

        Returns:
            Them; () if nobody has said.
        """
        return ()

    def torch_names(self, naming: str = "") -> dict[str, str]:
        """Names in PyTorch's files of the submodules, and of the parameters outside of them.

        `[i]` marks part i of a tensor that is kept fused there; see `checkpoints.torch`.

        Args:
            naming: one of `torch_namings`, if there are several.

        Returns:
            Their names by ours; empty if nobody has published such weights.
        """
        del naming
        return {}

    def torch_calls(self, size: tuple[int, int]) -> dict[str, tuple[str, str]]:
        """Python that makes the model elsewhere, with `weights` by their names there.

        Args:
            size: (h, w) in pixels of the images that it takes.

        Returns:
            A module to import, and lines that assign `model`, by naming of `torch_namings`; {} if
            nobody has said.
        """
        del size
        return {}

    def parts(self) -> Collection[str]:
        """Our names of the submodules, and of the parameters outside of them, as far as known."""
        return self.torch_names().keys()

    def npz_names(self) -> dict[str, str]:
        """Names in google-research's .npz files of the submodules and parameters, where not ours.

        Returns:
            Their names by ours; see `checkpoints.npz.rename`.
        """
        return {}

    def torch_tables(self) -> dict[str, np.ndarray]:
        """What files in PyTorch hold besides weights, by its name there, for others to load them.

        Their ends are among `torch_buffers`.
        """
        return {}

    @staticmethod
    def fields_in(shapes: Shapes) -> dict[str, Any]:
        """Reads fields off the shapes of a file's arrays, by our names; see `vit_jax.identify`.

        Raises:
            KeyError: if the arrays are those of another kind of model.
        """
        raise KeyError(f"nothing is known to tell its fields by, of {len(shapes)} arrays")
