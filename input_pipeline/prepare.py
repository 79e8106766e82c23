"""Stores a data set once more, with smaller images: python -m input_pipeline.prepare SRC DST.

SRC is a folder of classes or tfds:NAME. DST becomes a data_dir of TFDS, which --config.data.source
and --config.data.tfds.data_dir name afterwards. Images whose shorter side is above --resize are
reduced to it and stored as JPEG; other JPEGs and PNGs stay as they are, and other formats, and what
is too long for a JPEG, become PNG.
"""

import shlex
import sys
from collections.abc import Sequence

from input_pipeline.arguments import Parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the data set; returns the exit code."""
    parser = Parser("input_pipeline.prepare", __doc__)
    parser.add_argument("source", metavar="SRC")
    parser.add_argument("destination", metavar="DST")
    parser.add_argument("--resize", type=int, metavar="N", help="pixels of the shorter side")
    parser.add_argument("--quality", type=int, default=95, help="of the JPEGs, 1 to 100")
    parser.add_argument(
        "--format",
        choices=["array_record", "tfrecord"],
        default="array_record",
        help="array_record is shuffled as a whole; tfrecord is read in sequence, from anywhere",
    )
    parser.add_argument("--name", help="of the new data set; unset, it is SRC's with N")
    parser.add_argument("--data_dir", help="where tfds:NAME lies")
    parser.add_argument("--manual_dir", help="where what it needs was downloaded by hand")
    parser.add_argument("--skip_corrupt", action="store_true", help="leave such files out")
    args = parser.read(arguments)
    from input_pipeline import storing  # TensorFlow takes seconds to import

    try:
        sources = storing.open_whole(args.source, args.data_dir, args.manual_dir, args.skip_corrupt)
        name = args.name or storing.name_for(args.source, args.resize)
        folder = storing.store(
            sources, args.destination, name, args.resize, args.quality, args.format
        )
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    for split, source in sources.items():
        print(f"{split}: {source.num_examples:,} images of {len(source.class_names):,} classes")
    size = sum(path.stat().length for path in folder.iterdir())
    print(f"{size / 2**20:,.1f} MiB in {folder}; to use it:")
    val = next((split for split in ("val", "validation") if split in sources), "")
    flags = {
        "source": f"tfds:{name}",
        "tfds.data_dir": args.destination,
        "tfds.train_split": "train",
        "tfds.val_split": val,
        "tfds.test_split": "test" if "test" in sources else "",
    }
    print("    " + " ".join(shlex.quote(f"--config.data.{key}={flags[key]}") for key in flags))
    return 0


if __name__ == "__main__":
    sys.exit(main())
