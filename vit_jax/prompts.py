"""Prompts: the sentences that a class is put into before its words are embedded.

Which set was used decides by some percent what a zero-shot classifier scores, so each has a name.
A prompt has {} for the class.

Sources: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision"
(CLIP, ICML 2021), and the notebook in openai/CLIP in which the 80 for ImageNet are, and the 7 that
were chosen of them.
"""

IMAGENET_80 = (
    "a bad photo of a {}.", "a photo of many {}.", "a sculpture of a {}.",
    "a photo of the hard to see {}.", "a low resolution photo of the {}.", "a rendering of a {}.",
    "graffiti of a {}.", "a bad photo of the {}.", "a cropped photo of the {}.",
    "a tattoo of a {}.", "the embroidered {}.", "a photo of a hard to see {}.",
    "a bright photo of a {}.", "a photo of a clean {}.", "a photo of a dirty {}.",
    "a dark photo of the {}.", "a drawing of a {}.", "a photo of my {}.", "the plastic {}.",
    "a photo of the cool {}.", "a close-up photo of a {}.", "a black and white photo of the {}.",
    "a painting of the {}.", "a painting of a {}.", "a pixelated photo of the {}.",
    "a sculpture of the {}.", "a bright photo of the {}.", "a cropped photo of a {}.",
    "a plastic {}.", "a photo of the dirty {}.", "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.", "a photo of the {}.", "a good photo of the {}.",
    "a rendering of the {}.", "a {} in a video game.", "a photo of one {}.", "a doodle of a {}.",
    "a close-up photo of the {}.", "a photo of a {}.", "the origami {}.", "the {} in a video game.",
    "a sketch of a {}.", "a doodle of the {}.", "a origami {}.", "a low resolution photo of a {}.",
    "the toy {}.", "a rendition of the {}.", "a photo of the clean {}.", "a photo of a large {}.",
    "a rendition of a {}.", "a photo of a nice {}.", "a photo of a weird {}.",
    "a blurry photo of a {}.", "a cartoon {}.", "art of a {}.", "a sketch of the {}.",
    "a embroidered {}.", "a pixelated photo of a {}.", "itap of the {}.",
    "a jpeg corrupted photo of the {}.", "a good photo of a {}.", "a plushie {}.",
    "a photo of the nice {}.", "a photo of the small {}.", "a photo of the weird {}.",
    "the cartoon {}.", "art of the {}.", "a drawing of the {}.", "a photo of the large {}.",
    "a black and white photo of a {}.", "the plushie {}.", "a dark photo of a {}.", "itap of a {}.",
    "graffiti of the {}.", "a toy {}.", "itap of my {}.", "a photo of a cool {}.",
    "a photo of a small {}.", "a tattoo of the {}.",
)  # fmt: skip
# "itap" is "I took a picture".
IMAGENET_7 = (
    "itap of a {}.", "a bad photo of the {}.", "a origami {}.", "a photo of the large {}.",
    "a {} in a video game.", "art of the {}.", "a photo of the small {}.",
)  # fmt: skip
SETS = {"imagenet80": IMAGENET_80, "imagenet7": IMAGENET_7}
DEFAULT = "a photo of a {}"


def find(spec: str) -> tuple[str, ...]:
    """Finds prompts by name, or takes one's own.

    Args:
        spec: one of `SETS`, or prompts divided by "|", each with one {} for the class; "" is
            `DEFAULT`.

    Returns:
        The prompts.

    Raises:
        ValueError: for a name that there is not, or a prompt without {} or with several.
    """
    if spec in SETS:
        return SETS[spec]
    templates = tuple(part.strip() for part in (spec or DEFAULT).split("|"))
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(
                f"prompts={spec!r}: {template!r} must have {{}} once, where the class goes; or "
                f"name a set, {', '.join(SETS)}; several of one's own are divided by |"
            )
    return templates


def readable(name: str) -> str:
    """A class's name as words: with blanks for the underscores that names of folders have."""
    return name.replace("_", " ")
