"""Files that `predict` writes of what a classifier sees in a photo: attention, and features.

They need no head, so that they are all that is written of weights without one.
"""

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import jax
import numpy as np

from vit_jax.tasks import plain
from vit_jax.tasks.base import Item, Pretrained

_MOST_PHOTOS = 32  # by which the colours of features are chosen


class Seen(NamedTuple):
    """What a view shows of a photo.

    Attributes:
        words: what it is, for the terminal.
        files: to write, by path inside of the output folder.
        value: what a program gets, or None.
    """

    words: str
    files: Mapping[PurePath, bytes]
    value: Any = None


class Attention:
    """Where a model looks in a photo, as a picture; see `attention_maps.look`.

    Args:
        pretrained: the model.
        variables: its variables, on the devices.

    Raises:
        ValueError: if it has no attention.
    """

    failed = "draw where it looks in"

    def __init__(self, pretrained: Pretrained, variables: Any) -> None:
        from vit_jax import attention_maps  # matplotlib takes a while to import

        self._variables = variables
        self._look = jax.jit(functools.partial(attention_maps.look, pretrained.model))
        _try(self._look, pretrained, variables)

    def outputs(self, inside: PurePath) -> Sequence[PurePath]:
        """Where its files go, from where the photo lies."""
        return ("attention" / plain.picture_of(inside),)

    def see(self, item: Item, image: np.ndarray, title: str) -> Seen:
        """Draws it.

        Args:
            item: the photo.
            image: (h, w, 3), prepared for the model.
            title: of the picture.
        """
        from vit_jax import attention_maps, report

        rolled, heads = jax.device_get(self._look(self._variables, image[None]))
        figure = attention_maps.draw(report.displayable(image), rolled[0], heads[0], title)
        (path,) = self.outputs(item.inside)
        count, rows, columns = heads[0].shape
        return Seen(f"attention of {count} heads over {rows} x {columns}", {path: _png(figure)})


class Features:
    """The features of a photo, as numbers and as a picture; see `features`.

    Colours are chosen by up to 32 photos of the command together, so that what is alike in two
    photos looks alike.

    Args:
        pretrained: the model.
        variables: its variables, on the devices.
        prepare: from a photo to (h, w, 3) float32 for the model; raises if it cannot be read.
        draws: whether there are files, and not a value alone.

    Raises:
        ValueError: if the model gives no maps of features.
    """

    failed = "show the features of"

    def __init__(
        self,
        pretrained: Pretrained,
        variables: Any,
        prepare: Callable[[Item], np.ndarray],
        draws: bool,
    ) -> None:
        from vit_jax import features

        self._variables, self._prepare, self._draws = variables, prepare, draws
        self._compute = jax.jit(functools.partial(features.compute, pretrained.model))
        _try(self._compute, pretrained, variables)
        self._photos: Sequence[Item] = ()
        self._colours: dict[str, Any] = {}
        self._known: dict[Item, dict[str, np.ndarray]] = {}  # of photos still to be drawn

    def choose_by(self, photos: Sequence[Item]) -> None:
        """Says which photos are to have colours in common; an even choice of them is looked at."""
        self._photos = photos[:: -(-len(photos) // _MOST_PHOTOS) or 1]
        self._colours, self._known = {}, {}

    def outputs(self, inside: PurePath) -> Sequence[PurePath]:
        """Where its files go, from where the photo lies."""
        if not self._draws:
            return ()
        picture = "features" / plain.picture_of(inside)
        return picture, picture.with_suffix(".npz")

    def see(self, item: Item, image: np.ndarray, title: str) -> Seen:
        """Computes and draws them, see `Attention.see`."""
        from vit_jax import features, report

        if self._draws and not self._colours:
            self._compute_some()
        some = list(self._known.values())
        found = self._known.pop(item, None) or self._of(image)
        if self._draws and not self._colours:
            self._choose_colours(some or [found])
        maps = _maps_of(found)
        said = ", ".join(f"{' x '.join(map(str, each.shape))} features" for each in maps.values())
        if not self._draws:
            return Seen(said, {}, found)
        painted = {
            "{} x {}, {} numbers each".format(*each.shape): self._colours[name].paint(each)
            for name, each in maps.items()
        }
        figure = features.draw(report.displayable(image), painted, title)
        numbers, arrays = io.BytesIO(), dict[str, Any](found)
        np.savez(numbers, **arrays)
        picture, beside = self.outputs(item.inside)
        return Seen(said, {picture: _png(figure), beside: numbers.getvalue()}, found)

    def _of(self, image: np.ndarray) -> dict[str, np.ndarray]:
        found = jax.device_get(self._compute(self._variables, image[None]))
        if not all(np.isfinite(values).all() for values in found.values()):
            raise ValueError("they are no finite numbers")
        finest_first = sorted(found, key=lambda name: found[name].shape[1:-1], reverse=True)
        return {name: found[name][0] for name in finest_first}  # which jax.jit has by their names

    def _compute_some(self) -> None:
        """Computes the features of the photos by which colours are chosen, once."""
        for item in self._photos:
            try:
                self._known[item] = self._of(self._prepare(item))
            except Exception:  # which is said when it is the photo's turn
                continue
        self._photos = ()

    def _choose_colours(self, some: Sequence[Mapping[str, np.ndarray]]) -> None:
        from vit_jax import features

        maps = [_maps_of(found) for found in some]
        self._colours = {
            name: features.choose_colours([each[name] for each in maps]) for name in maps[0]
        }


def _maps_of(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: each for name, each in found.items() if each.ndim == 3}


def _try(look: Callable[..., Any], pretrained: Pretrained, variables: Any) -> None:
    """Raises what it would raise of an image."""
    shape = jax.ShapeDtypeStruct((1, *pretrained.image_size, 3), np.float32)
    jax.eval_shape(look, variables, shape)


def _png(figure: Any) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, dpi=110, format="png")
    return data.getvalue()
