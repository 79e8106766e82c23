"""Small data sets of optical flow on disk, in the layouts of the published ones."""

import dataclasses

import numpy as np
from PIL import Image

from input_pipeline import flow_files, get_dataset
from input_pipeline.sources import flow_layouts, flow_pairs
from tests.helpers import data_config

SIZE = (6, 8)
VALUES = "value_range(0, 255)"


def frame(seed, size=SIZE):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


def flow_of(seed, size=SIZE):
    """A flow in steps of 1/64, which every format keeps."""
    return (np.random.default_rng(seed).integers(-640, 640, (*size, 2)) / 64).astype(np.float32)


def save(path, content):
    """Writes bytes, or an image; a path that ends in a format of flow gets that of a flow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        Image.fromarray(content).save(path)
    return path


def frames(folder, names, start=0, size=SIZE):
    for i, name in enumerate(names, start):
        save(folder / name, frame(i, size))


def flows(folder, names, start=0, size=SIZE):
    encoders = {"flo": flow_files.encode_flo, "pfm": flow_files.encode_pfm,
                "png": flow_files.encode_kitti_png}  # fmt: skip
    for i, name in enumerate(names, start):
        save(folder / name, encoders[name.rpartition(".")[2]](flow_of(i, size)))


def chairs(folder, splits="1121", name="FlyingChairs_train_val.txt"):
    numbers = [f"{i:05d}" for i in range(1, len(splits) + 1)]
    for role in ("img1", "img2"):
        frames(folder / "data", [f"{n}_{role}.ppm" for n in numbers], start=ord(role[-1]))
    flows(folder / "data", [f"{n}_flow.flo" for n in numbers])
    (folder / name).write_text("\n".join(splits))
    return folder


def things(folder, sequences=("TRAIN/A/0000", "TRAIN/B/0001", "TEST/A/0000"), count=3):
    numbers = [f"{i:04d}" for i in range(6, 6 + count)]
    for i, place in enumerate(sequences):
        for name in ("clean", "final"):
            frames(folder / f"frames_{name}pass" / place / "left", [f"{n}.png" for n in numbers],
                   start=10 * i + 100 * len(name))  # fmt: skip
        for j, word in enumerate(("Future", "Past")):
            names = [f"OpticalFlowInto{word}_{n}_L.pfm" for n in numbers]
            inside = folder / "optical_flow" / place / f"into_{word.lower()}" / "left"
            flows(inside, names, start=10 * i + 5 * j)
    return folder


def sintel(folder, scenes=("alley_1", "bamboo_2"), count=3, masks=True, size=SIZE):
    names = [f"frame_{i:04d}" for i in range(1, count + 1)]
    base = folder / "training"
    for i, scene in enumerate(scenes):
        for j, kind in enumerate(("clean", "final")):
            frames(base / kind / scene, [f"{n}.png" for n in names], 20 * i + 50 * j, size)
        flows(base / "flow" / scene, [f"{n}.flo" for n in names[:-1]], 20 * i, size)
        for what in ("occlusions", "invalid") if masks else ():
            for j, name in enumerate(names[:-1]):
                save(base / what / scene / f"{name}.png", mask_of(20 * i + j, what, size))
    frames(folder / "test" / "clean" / "cave", [f"{n}.png" for n in names])
    return folder


def mask_of(seed, what, size=SIZE):
    random = np.random.default_rng(seed + 1000 * len(what))
    return (255 * (random.random(size) < 0.3)).astype(np.uint8)


def kitti(folder, count=2, sizes=(SIZE, (5, 9)), visible=True):
    base = folder / "training"
    for i in range(count):
        size = sizes[i % len(sizes)]
        frames(base / "image_2", [f"{i:06d}_10.png", f"{i:06d}_11.png"], 10 * i, size)
        valid = np.random.default_rng(i).random(size) < 0.6
        seen = valid & (np.random.default_rng(i + 50).random(size) < 0.7)
        for name, known in (("flow_occ", valid), ("flow_noc", seen)):
            if name == "flow_occ" or visible:
                data = flow_files.encode_kitti_png(flow_of(i, size), known)
                save(base / name / f"{i:06d}_10.png", data)
    return folder


def hd1k(folder, counts=(3, 2)):
    for i, count in enumerate(counts):
        names = [f"{i:06d}_{j:04d}.png" for j in range(count)]
        frames(folder / "hd1k_input" / "image_2", names, 300 + 30 * i)
        flows(folder / "hd1k_flow_gt" / "flow_occ", names, 30 * i)
    return folder


def own(folder, names=("a", "b", "c"), ending="{}_{}", flow="flo"):
    """Pairs beside each other, or in folders: ending="{1}/{0}"."""
    words = ("img1", "img2") if ending == "{}_{}" else ("image1", "image2")
    for i, name in enumerate(names):
        for j, word in enumerate(words):
            save(folder / f"{ending.format(name, word)}.png", frame(10 * i + j))
        flows(folder, [f"{ending.format(name, 'flow')}.{flow}"], 10 * i)
    return folder


def config_of(folder, **changes):
    settings = {key: changes.pop(key) for key in ("mixture", "test", "invalid") if key in changes}
    defaults = {"train_pp": f"random_crop(4)|{VALUES}", "eval_pp": VALUES, "val_fraction": 0.0}
    config = data_config(folder, "flow", **{**defaults, **changes})
    config.flow.update(settings)
    return config


def opened(folder, batch_size=1, **changes):
    return get_dataset(config_of(folder, **changes), batch_size, seed=0)


def read_alone(folder):
    """What `read` gives of all splits, without the pipeline."""
    return {
        pair.name: dataclasses.asdict(flow_pairs.read_pair(pair))
        for part in flow_layouts.find_parts(folder).values()
        for pairs in part.splits.values()
        for pair in pairs
    }


def read(data, split="train"):
    """Examples by name, as they are evaluated."""
    names = data.splits[split].names
    return {
        names[int(batch["index"][0])]: {key: value[0] for key, value in batch.items()}
        for batch in data.eval_batches(split)
        if batch["_mask"][0]
    }
