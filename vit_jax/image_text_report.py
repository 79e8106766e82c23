"""What a model of images and texts has to show: recalls, ranks, and who is like whom."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_jax import contrastive
from vit_jax.machinery import processes
from vit_jax.tasks import image_text

if TYPE_CHECKING:  # it takes a while to import
    from matplotlib.figure import Figure

_SHOWN = 12  # images of the picture
_KS = (1, 5, 10)
_WIDTH = 10.0  # of the picture, in inches
_COLUMNS = 44  # of a caption beside it


class ImageTextReport:
    """Ranks of each image and of its captions, and the likeness of some images and captions.

    Args:
        names: of the images of a split; () if they have none.
        tokenizer: that made tokens of the captions, see `input_pipeline.tokenizers`; or None.
    """

    sees_all = False

    def __init__(self, names: Sequence[str], tokenizer: Any) -> None:
        self._names = names
        self._tokenizer = tokenizer
        self._loss = np.zeros(0)
        self._ranks: dict[str, np.ndarray] = {}
        self._owners = np.zeros(0, int)
        self._kept: dict[int, tuple[np.ndarray, str, np.ndarray, np.ndarray]] = {}

    def choose(self, each: Mapping[str, np.ndarray]) -> Sequence[int]:
        """Images at even distances, from those that find their captions to those that do not."""
        index = each.get("index", np.arange(len(each["loss"])))
        order = np.argsort(index)
        self._loss = each["loss"][order]
        gathered = next((x for x in each.values() if x.ndim == 3), None)
        if gathered is None:
            return ()
        gathered = gathered[order]
        self._ranks = {k: image_text.ranks(gathered, k) for k in image_text.DIRECTIONS}
        self._owners = image_text.owners(gathered)
        if "index" not in each:
            return ()
        by_rank = np.argsort(self._ranks["image_to_text"], kind="stable")
        places = np.linspace(0, len(order) - 1, min(_SHOWN, len(order))).round().astype(int)
        return [int(index[order[by_rank[place]]]) for place in places]

    def add(self, batch: Mapping[str, np.ndarray], out: Any) -> None:
        """Keeps a batch's images with their first captions, and the embeddings of both."""
        texts = [""] * len(batch["text"])
        if self._tokenizer is not None:
            texts = [self._tokenizer.decode(tokens) for tokens in batch["text"]]
        rows = zip(batch["index"], batch["image"], texts, out["image"], out["text"])
        for row, image, text, *embeddings in rows:
            self._kept[int(row)] = (image, text, *embeddings)

    def gather(self) -> None:
        for kept in processes.gather(self._kept):
            self._kept |= kept

    def write(self, folder: Any, split: str) -> None:
        """Writes SPLIT.csv with each image's ranks, recalls.csv, and likeness.png."""
        from vit_jax import report

        folder.mkdir(parents=True, exist_ok=True)
        _write_table(folder / f"{split}.csv", self.rows())
        if self._ranks:
            _write_table(folder / "recalls.csv", self.recalls())
        if self._kept:
            report.save(self.draw_likeness(split), folder / "likeness.png")

    def rows(self) -> list[Sequence[object]]:
        """A header, and a line per image: ranks from 1, of its likest caption and by each."""
        header: list[object] = ["file", "loss"]
        columns: list[Sequence[object]] = [
            self._names or range(len(self._loss)),
            [f"{loss:.6f}" for loss in self._loss],
        ]
        if self._ranks:
            header += ["image_to_text rank", "captions", "text_to_image ranks"]
            of_texts = self._ranks["text_to_image"] + 1
            own = [of_texts[self._owners == i] for i in range(len(self._loss))]
            columns += [
                list(self._ranks["image_to_text"] + 1),
                [len(some) for some in own],
                [" ".join(map(str, some)) for some in own],
            ]
        return [header, *zip(*columns)]

    def recalls(self) -> list[Sequence[object]]:
        """A header, and a line per direction."""
        lines: list[Sequence[object]] = [
            ["direction", *(f"recall@{k}" for k in _KS), "median rank", "queries"]
        ]
        for direction, ranks in self._ranks.items():
            shares = [f"{contrastive.recall(ranks, k):.4f}" for k in _KS]
            lines.append([direction, *shares, f"{np.median(ranks) + 1:g}", len(ranks)])
        return lines

    def draw_likeness(self, split: str) -> "Figure":
        """Draws cosines of images, one a column, and of their first captions, one a row."""
        from matplotlib.figure import Figure

        from vit_jax import fonts, report

        images, texts, *embeddings = zip(*(self._kept[row] for row in sorted(self._kept)))
        image, text = map(np.stack, embeddings)
        count = len(images)
        figure = Figure(figsize=(_WIDTH, _WIDTH * 0.55 + 1.4), layout="constrained")
        top, below = figure.subplots(
            2, count, height_ratios=(1, count), squeeze=False, gridspec_kw={"hspace": 0.0}
        )
        for axes, shown in zip(top, images):
            axes.imshow(report.displayable(shown))
            axes.axis("off")
        for axes in below:
            axes.remove()
        axes = figure.add_subplot(figure.axes[0].get_gridspec()[1, :])
        likeness = text @ image.T
        picture = axes.imshow(likeness, cmap="viridis", aspect="auto")
        captions = [fonts.shorten(fonts.legible(words), _COLUMNS) for words in texts]
        axes.set_yticks(range(count), captions, fontsize=8, **fonts.style(*captions))
        axes.set_xticks([])
        middle = (likeness.min() + likeness.max()) / 2
        for (i, j), value in np.ndenumerate(likeness):
            color = "black" if value > middle else "white"
            weight = "bold" if i == j else "normal"
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", color=color,
                      fontsize=7, weight=weight)  # fmt: skip
        figure.colorbar(picture, ax=axes, label="cosine", shrink=0.8)
        figure.suptitle(f"{split}: {count} images and their first captions")
        return figure


def _write_table(path: Any, rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")
