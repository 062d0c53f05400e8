"""The classes of published segmentation sets, in the order of their numbers."""

from types import MappingProxyType

ADE20K = tuple(
    """
    wall; building; sky; floor; tree; ceiling; road; bed; windowpane; grass; cabinet; sidewalk;
    person; earth; door; table; mountain; plant; curtain; chair; car; water; painting; sofa; shelf;
    house; sea; mirror; rug; field; armchair; seat; fence; desk; rock; wardrobe; lamp; bathtub;
    railing; cushion; base; box; column; signboard; chest of drawers; counter; sand; sink;
    skyscraper; fireplace; refrigerator; grandstand; path; stairs; runway; case; pool table; pillow;
    screen door; stairway; river; bridge; bookcase; blind; coffee table; toilet; flower; book; hill;
    bench; countertop; stove; palm; kitchen island; computer; swivel chair; boat; bar;
    arcade machine; hovel; bus; towel; light; truck; tower; chandelier; awning; streetlight; booth;
    television receiver; airplane; dirt track; apparel; pole; land; bannister; escalator; ottoman;
    bottle; buffet; poster; stage; van; ship; fountain; conveyer belt; canopy; washer; plaything;
    swimming pool; stool; barrel; basket; waterfall; tent; bag; minibike; cradle; oven; ball; food;
    step; tank; trade name; microwave; pot; animal; bicycle; lake; dishwasher; screen; blanket;
    sculpture; hood; sconce; vase; traffic light; tray; ashcan; fan; pier; crt screen; plate;
    monitor; bulletin board; shower; radiator; glass; clock; flag
    """.replace("\n    ", " ")
    .strip()
    .split("; ")
)
"""The 150 classes of the scene parsing challenge; in its masks they are the values 1 to 150.

Source: Zhou et al. 2017, "Scene parsing through ADE20K dataset"; the order is that of the set.
"""

CITYSCAPES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign"),
    *("vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train"),
    *("motorcycle", "bicycle"),
)
"""The 19 classes that are scored.

Source: Cordts et al. 2016, "The Cityscapes dataset", and the definition of its labels.
"""

CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Their values in `*_labelIds.png`, of 34 in all."""

VOC = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair"),
    *("cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
"""The 21 classes of Pascal VOC.

Source: Everingham et al. 2010.
"""


def _voc_colour(number: int) -> int:
    """The colour of a class of VOC, 0xRRGGBB: its bits, three at a time, from the highest down."""
    colour = 0
    for place in range(8):
        for channel in range(3):
            bit = number >> (3 * place + channel) & 1
            colour |= bit << (7 - place) << (16 - 8 * channel)
    return colour


VOC_COLOURS = MappingProxyType(
    {**{_voc_colour(i): i for i in range(len(VOC))}, _voc_colour(255): -1}
)
"""The class of each colour 0xRRGGBB in masks that are pictures; -1 for the border of objects."""
