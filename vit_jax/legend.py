"""What figures of images mean, in which range they lie, and which end of it is better."""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Meaning:
    """What is to be known of a figure.

    Attributes:
        words: what it is.
        values: its range, and its unit.
        direction: what is better.
        needs: what images must have for it to be defined; "" if nothing.
    """

    words: str
    values: str
    direction: str = "higher is better"
    needs: str = ""


_LOWER = "lower is better"
_DETAIL = "higher has more detail, or noise"

_SIZE_OF_MS_SSIM = "sides of more than 160 pixels"
_SIZE_OF_VIF = "sides of at least 41 pixels"
_MANY_LEVELS = "more than one grey level"

_LEGEND = {
    "psnr": Meaning("peak signal-to-noise ratio over R, G and B", "dB, up to infinity"),
    "ssim": Meaning(
        "structural similarity in Gaussian windows of 11 pixels, mean over the channels", "-1 to 1"
    ),
    "ms_ssim": Meaning(
        "structural similarity over five scales, mean over the channels", "0 to 1",
        needs=_SIZE_OF_MS_SSIM,
    ),
    "psnr_b": Meaning(
        "PSNR that counts what is seen of blocks of 8 x 8 pixels as error, mean over the channels",
        "dB, up to infinity",
    ),
    "mse": Meaning(
        "mean squared error over R, G and B", "0 to 1 (of values from 0 to 1)", _LOWER
    ),
    "EN": Meaning("entropy of the grey levels", "0 to 8 bits", _DETAIL),
    "SF": Meaning(
        "spatial frequency: root of the mean squared steps along rows, and along columns",
        "0 to 361, of 255", _DETAIL,
    ),
    "SD": Meaning("standard deviation of the grey levels", "0 to 127.5, of 255", _DETAIL),
    "AG": Meaning("average gradient", "0 and more, of 255", _DETAIL),
    "MI": Meaning(
        "what the grey levels say of those of A, and of those of B: mutual information",
        "0 to 16 bits",
    ),
    "CC": Meaning(
        "mean correlation with A and with B", "-1 to 1", needs=f"in all three {_MANY_LEVELS}"
    ),
    "SCD": Meaning(
        "correlation of F - B with A, plus that of F - A with B, where F is the fused image",
        "-2 to 2", needs=f"{_MANY_LEVELS} in the sources, other ones than in the fused image",
    ),
    "VIF": Meaning(
        "visual information fidelity to A, plus that to B", "0 and more, 2 if all three are equal",
        needs=_SIZE_OF_VIF,
    ),
    "Qabf": Meaning(
        "how much of the edges of A and B is kept", "0 to 1", needs="edges in one of the sources"
    ),
    "Nabf": Meaning("edges that neither A nor B has", "0 to 1", _LOWER),
}  # fmt: skip


def rank_of(figure: str) -> tuple[bool, int]:
    """A key by which figures are sorted as they are listed here, those of luma last."""
    name = figure.rpartition("/")[2]
    plain = name.removesuffix("_y")
    return plain != name, list(_LEGEND).index(plain)


def meaning_of(figure: str) -> Meaning:
    """Looks a figure up, such as "SF", "basicsr/psnr" or, of luma, "basicsr/psnr_y"."""
    protocol, _, name = figure.rpartition("/")
    plain = name.removesuffix("_y")
    meaning = _LEGEND[plain]
    if protocol == "basicsr" and plain == "mse":
        meaning = dataclasses.replace(meaning, values="0 to 65025 (of values from 0 to 255)")
    if plain != name:
        words = re.sub(" over R, G and B|, mean over the channels", "", meaning.words)
        meaning = dataclasses.replace(meaning, words=f"{words}, of luma")
    return meaning


def line_of(figure: str) -> str:
    """Says it in a line."""
    meaning = meaning_of(figure)
    needs = f"; needs {meaning.needs}" if meaning.needs else ""
    return f"{meaning.words}; {meaning.values}; {meaning.direction}{needs}"
