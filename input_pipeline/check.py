"""Checks a folder of images, or ImageNet: python -m input_pipeline.check FOLDER, or imagenet2012.

Of a FOLDER of pairs of hazy and clear images it prints how the pairs were found, how many there
are, their sizes, and how hazy they are; and what is wrong: images without a partner, of another
size than their partner (if that is to be enlarged: than --scale times it), or unreadable, and
scenes that are in more than one split, or in the folder --against as well.

With --kind=segmentation it is a folder of images and masks, of which it prints the classes, and
which share of the pixels each has; and what is wrong: images or masks without a partner, of another
size than their partner, unreadable, masks that hold colours or labels of no class, and images that
are in more than one split. --classes, --reduce_zero_label and --ignore are those of a run's
--config.data.masks.

With --kind=flow it is a folder of pairs of frames with their flow, of which it prints how long the
flow is, how much of it is known, and how much more alike the frames are once they are moved by it;
and what is wrong: frames and flows that are missing, of another size, or unreadable, flows that do
not fit their frames, and pairs that are in more than one split.

With --kind=captions it is a folder or a file of images and what is said of them, of which it prints
how many there are and how long they are; and what is wrong: images that are missing, unreadable, or
there several times, and captions that an image has twice. --file and --images are those of a run's
--config.data.captions.

With --kind=translation it is a folder or a file of sentences and their translations, of which it
prints how many there are and how long they are; and what is wrong: lines of which a side is empty,
pairs that are there several times, that are not translated, or whose sides differ much in length,
and sources that are in more than one split. --source_language and --target_language are those of a
run's --config.data.translation.

Of imagenet2012 it checks what TFDS has prepared in --data_dir, or what it would be prepared from in
--manual_dir; with --folder, train/ and val/ with a folder of images per class.

The exit code is 1 if anything is wrong.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from input_pipeline import check_captions, check_flow, check_segmentation, check_translation, files
from input_pipeline.arguments import Parser
from input_pipeline.sources import pairs
from input_pipeline.sources.pairs import PairedSplit, find_pairs

_SAMPLE = 50  # pairs whose PSNR is averaged
# Arguments that are for a kind of data alone.
_FLAGS = {
    "imagenet2012": ("data_dir", "manual_dir", "folder"),
    "pairs": ("against", "pattern", "scale"),
    "segmentation": ("classes", "reduce_zero_label", "ignore"),
    "captions": ("file", "images"),
    "translation": ("source_language", "target_language"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the report; returns the exit code."""
    parser = Parser("input_pipeline.check", __doc__)
    parser.add_argument("data", metavar="FOLDER|imagenet2012")
    kinds = ("pairs", "segmentation", "flow", "captions", "translation")
    parser.add_argument("--kind", choices=kinds, help="of a FOLDER")
    parser.add_argument("--against", type=Path, help="a test set elsewhere, for common scenes")
    parser.add_argument(
        "--pattern", default="", help="another layout: 'foggy/{scene}_*.png sharp/{scene}.png'"
    )
    parser.add_argument("--scale", type=int, default=1, help="how many times larger one image is")
    parser.add_argument("--classes", default="", help="a known set, or a file of class names")
    parser.add_argument(
        "--reduce_zero_label", choices=("True", "False"), help="whether label 0 is of no class"
    )
    parser.add_argument("--ignore", default="", help="labels of no class: 11,12")
    parser.add_argument("--file", default="", help="of captions: the file in FOLDER that has them")
    parser.add_argument("--images", default="", help="of captions: the folder in FOLDER of images")
    for side in ("source", "target"):
        parser.add_argument(f"--{side}_language", default="", help="of translations: such as de")
    parser.add_argument("--data_dir", help="of imagenet2012: where TFDS has prepared it")
    parser.add_argument("--manual_dir", help="of imagenet2012: where its archives lie")
    parser.add_argument("--folder", type=Path, help="of imagenet2012: a folder of its images")
    args = parser.read(arguments)
    kind = "imagenet2012" if args.data == "imagenet2012" else args.kind or "pairs"
    for other, flags in _FLAGS.items():
        for flag in flags if other != kind else ():
            if getattr(args, flag) not in (None, "", 1):
                parser.error(f"--{flag} is not for {kind if args.kind else args.data}")
    try:
        problems = _CHECKS[kind](args)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    for problem in problems:
        print(f"PROBLEM  {problem}")
    if not problems:
        print("no problems")
    return 1 if problems else 0


def _check_imagenet(args: argparse.Namespace) -> list[str]:
    from input_pipeline import check_imagenet  # takes seconds to import

    if args.folder:
        return check_imagenet.check_folder(args.folder.expanduser())
    return check_imagenet.check_prepared(args.data_dir, args.manual_dir)


def _check_segmentation(args: argparse.Namespace) -> list[str]:
    numbers = args.ignore.split(",") if args.ignore else []
    if not all(number.strip().isdigit() for number in numbers):
        raise ValueError(f"--ignore must be labels such as 11,12, not {args.ignore!r}")
    reduce = None if args.reduce_zero_label is None else args.reduce_zero_label == "True"
    settings = check_segmentation.Settings(args.classes, reduce, tuple(map(int, numbers)))
    return check_segmentation.check_folder(Path(args.data), settings)


def _check_captions(args: argparse.Namespace) -> list[str]:
    return check_captions.check_folder(Path(args.data), args.file, args.images)


def _check_translation(args: argparse.Namespace) -> list[str]:
    return check_translation.check(args.data, (args.source_language, args.target_language))


def _check_flow(args: argparse.Namespace) -> list[str]:
    return check_flow.check_folder(Path(args.data))


def _check_pairs(args: argparse.Namespace) -> list[str]:
    if args.scale < 1:
        raise ValueError(f"--scale must be at least 1, not {args.scale}")
    splits = find_pairs(Path(args.data), args.pattern, args.scale)
    others = {} if args.against is None else find_pairs(args.against, args.pattern, args.scale)
    problems = []
    for name, split in splits.items():
        print(f"{name}: {len(split.pairs)} pairs, by {split.layout}")
        problems += [f"{name}: {problem}" for problem in _check_split(split, args.scale)]
    named = {f"{name} of {args.against}": split for name, split in others.items()}
    return problems + pairs.find_common_scenes(splits, named)


def _check_split(split: PairedSplit, scale: int) -> list[str]:
    """Prints a split's sizes and haze; returns what is wrong with it."""
    sizes, unequal, unreadable, ratios, equal, bordered = [], [], [], [], [], 0
    sample = set(np.linspace(0, len(split.pairs) - 1, _SAMPLE).round().astype(int))
    quiet = not sys.stderr.isatty()
    for i, pair in enumerate(tqdm(split.pairs, unit="pair", leave=False, disable=quiet)):
        try:
            image, target = pairs.read_pair(pair, scale)
        except pairs.UnreadableError as error:
            unreadable.append(str(error))
            continue
        except pairs.SizeMismatchError as error:
            unequal.append(str(error))
            continue
        sizes.append(target.shape[:2])
        bordered += scale == 1 and files.read_size(pair.target) != target.shape[:2]
        if i in sample and scale == 1:
            squared = np.mean((image.astype(np.float64) - target) ** 2)
            if squared:
                ratios.append(10 * np.log10(255**2 / squared))
            else:
                equal.append(str(pair.input))
    if sizes:
        heights, widths = zip(*sizes)
        count = len(set(sizes))
        print(
            f"    {count} size{'s' if count > 1 else ''}: {min(heights)} to {max(heights)} pixels "
            f"high, {min(widths)} to {max(widths)} wide"
        )
    if bordered:
        print(f"    {bordered} clear images have a border more than the hazy ones; it is cut off")
    if ratios:
        print(f"    PSNR of the hazy images: {np.mean(ratios):.2f} dB, mean over {len(ratios)}")
    scenes = len({pair.scene for pair in split.pairs})
    print(f"    {scenes} scene{'s' if scenes > 1 else ''}")
    found = {
        "without a partner": [str(path) for path in split.orphans],
        "unreadable": unreadable,
        "of another size than its partner": unequal,
        "(of a sample) equal to the clear image": equal,
    }
    return [f"{len(names)} {what}: {files.some(names)}" for what, names in found.items() if names]


_CHECKS = {
    "imagenet2012": _check_imagenet,
    "pairs": _check_pairs,
    "segmentation": _check_segmentation,
    "flow": _check_flow,
    "captions": _check_captions,
    "translation": _check_translation,
}


if __name__ == "__main__":
    sys.exit(main())
