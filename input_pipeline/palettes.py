"""Classes of the published sets for segmentation, and the colours that they are shown in.

Sources: Everingham et al., "The PASCAL Visual Object Classes Challenge" (IJCV 2010); Zhou et al.,
"Scene Parsing through ADE20K Dataset" (CVPR 2017); Cordts et al., "The Cityscapes Dataset" (CVPR
2016); Brostow et al., "Semantic Object Classes in Video" (PRL 2009), with the 11 classes and the
colours of SegNet (Badrinarayanan et al., TPAMI 2017); Gong et al., "Look into Person" (CVPR 2017);
Caesar et al., "COCO-Stuff" (CVPR 2018).
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Names are divided by commas; colours are RGB in hexadecimal digits.
_ADE20K = """
    wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk,
    person, earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa,
    shelf, house, sea, mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp,
    bathtub, railing, cushion, base, box, column, signboard, chest of drawers, counter, sand,
    sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool
    table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet,
    flower, book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair,
    boat, bar, arcade machine, hovel, bus, towel, light, truck, tower, chandelier, awning,
    streetlight, booth, television receiver, airplane, dirt track, apparel, pole, land,
    bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer
    belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag,
    minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal, bicycle,
    lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray,
    ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass,
    clock, flag
"""
_ADE20K_COLOURS = """
    787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07 96053d
    787846 08ff33 ff0652 8fff8c ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0
    0907e6 dcdcdc ff095c 7009ff 08ffd6 07ffe0 ffb806 0aff47 ff290a 07ffff e0ff08 6608ff ff3d06
    ffc207 ff7a08 00ff14 ff0829 ff0599 0633ff eb0cff a09614 00a3ff 8c8c8c fa0a0f 14ff00 1fff00
    ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff 0bc8c8 ff5200 00fff5 003dff 00ff70
    00ff85 ff0000 ffa300 ff6600 c2ff00 008fff 33ff00 0052ff 00ff29 00ffad 0a00ff adff00 00ff99
    ff5c00 ff00ff ff00f5 ff0066 ffad00 ff0014 ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2 00ff52
    000aff 0070ff 3300ff 00c2ff 007aff 00ffa3 ff9900 00ff0a ff7000 8fff00 5200ff a3ff00 ffeb00
    08b8aa 8500ff 00ff5c b800ff ff001f 00b8ff 00d6ff ff0070 5cff00 00e0ff 70e0ff 46b8a0 a300ff
    9900ff 47ff00 ff00a3 ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500 0abed4 d6ff00
    00ccff 1400ff ffff00 0099ff 0029ff 00ffcc 2900ff 29ff00 ad00ff 00f5ff 4700ff 7a00ff 00ffb8
    005cff b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff
"""
_VOC = """
    background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable,
    dog, horse, motorbike, person, pottedplant, sheep, sofa, train, tvmonitor
"""
_CITYSCAPES = """
    road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation,
    terrain, sky, person, rider, car, truck, bus, train, motorcycle, bicycle
"""
_CITYSCAPES_COLOURS = """
    804080 f423e8 464646 66669c be9999 999999 faaa1e dcdc00 6b8e23 98fb98 4682b4 dc143c ff0000
    00008e 000046 003c64 005064 0000e6 770b20
"""
_CAMVID = """
    sky, building, pole, road, pavement, tree, sign, fence, car, pedestrian, bicyclist
"""
_CAMVID_COLOURS = """
    808080 800000 c0c080 804080 3c28de 808000 c08080 404080 400080 404000 0080c0
"""
_LIP = """
    background, hat, hair, glove, sunglasses, upper-clothes, dress, coat, socks, pants,
    jumpsuits, scarf, skirt, face, left-arm, right-arm, left-leg, right-leg, left-shoe,
    right-shoe
"""
_LIP_COLOURS = """
    000000 800000 ff0000 005500 aa0033 ff5500 000055 0077dd 555500 005555 553300 345680 008000
    0000ff 33aadd 00ffff 55ffaa aaff55 ffff00 ffaa00
"""
_COCO_STUFF = """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire
    hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear,
    zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports
    ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine
    glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot
    dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop,
    mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book,
    clock, vase, scissors, teddy bear, hair drier, toothbrush, banner, blanket, branch, bridge,
    building-other, bush, cabinet, cage, cardboard, carpet, ceiling-other, ceiling-tile, cloth,
    clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt, door-stuff, fence,
    floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower, fog, food-other,
    fruit, furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat, metal,
    mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, pillow, plant-other,
    plastic, platform, playingfield, railing, railroad, river, road, rock, roof, rug, salad,
    sand, sea, shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw,
    structural-other, table, tent, textile-other, towel, tree, vegetable, wall-brick,
    wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other,
    waterdrops, window-blind, window-other, wood
"""


class KnownSet(NamedTuple):
    """A published set for segmentation.

    Attributes:
        class_names: in the order of the labels.
        colours: (classes, 3) uint8, RGB.
        swapped: pairs of labels that change places when an image is mirrored, since they tell left
            from right.
    """

    class_names: tuple[str, ...]
    colours: np.ndarray
    swapped: tuple[tuple[int, int], ...] = ()


def bit_palette(count: int) -> np.ndarray:
    """Makes the colours of PASCAL VOC, which go on as far as one likes.

    The bits of a label go to red, green and blue in turn, and fill each from its highest bit down.

    Args:
        count: of labels.

    Returns:
        (count, 3) uint8, RGB; 0 is black.
    """
    labels = np.arange(count)
    colours = np.zeros((count, 3), np.uint8)
    for place in range(8):
        for channel in range(3):
            bit = labels >> (3 * place + channel) & 1
            colours[:, channel] |= (bit << (7 - place)).astype(np.uint8)
    return colours


def _known(names: str, colours: str = "", swapped: tuple[tuple[int, int], ...] = ()) -> KnownSet:
    class_names = tuple(" ".join(name.split()) for name in names.split(","))
    if not colours:
        return KnownSet(class_names, bit_palette(len(class_names)), swapped)
    values = np.frombuffer(bytes.fromhex(colours), np.uint8)  # it skips blanks
    return KnownSet(class_names, values.reshape(len(class_names), 3), swapped)


@functools.cache
def known_sets() -> dict[str, KnownSet]:
    """The published sets by name; COCO-Stuff, which has no colours of its own, has VOC's."""
    return {
        "ade20k": _known(_ADE20K, _ADE20K_COLOURS),
        "voc": _known(_VOC),
        "cityscapes": _known(_CITYSCAPES, _CITYSCAPES_COLOURS),
        "camvid": _known(_CAMVID, _CAMVID_COLOURS),
        "lip": _known(_LIP, _LIP_COLOURS, swapped=((14, 15), (16, 17), (18, 19))),
        "coco_stuff": _known(_COCO_STUFF),
    }


def palette_for(class_names: Sequence[str] | None, count: int | None = None) -> np.ndarray:
    """Chooses colours to show classes in.

    Args:
        class_names: in the order of the labels; None or empty if they are not known.
        count: of classes; None is as many as there are names.

    Returns:
        (count, 3) uint8, RGB: those of the published set that has just these classes, or else
        PASCAL VOC's.

    Raises:
        ValueError: if there are neither names nor a count, or they are at odds.
    """
    names = tuple(class_names or ())
    if not names and count is None:
        raise ValueError("a palette needs the names of the classes, or their number")
    if names and count not in (None, len(names)):
        raise ValueError(f"{len(names)} class names for {count} classes: give one for each")
    for known in known_sets().values():
        if names == known.class_names:
            return known.colours.copy()
    return bit_palette(len(names) if count is None else count)
