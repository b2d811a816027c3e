"""ADE20K's 150 names, as models on the Hub have them in ``id2label``."""

# huggingface/label-files, ade20k-id2label.json; SegFormer, UperNet, BEiT, DPT.
_NAMES = """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person,
earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea,
mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion,
base, box, column, signboard, chest of drawers, counter, sand, sink, skyscraper, fireplace,
refrigerator, grandstand, path, stairs, runway, case, pool table, pillow, screen door, stairway,
river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop, stove,
palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light,
truck, tower, chandelier, awning, streetlight, booth, television receiver, airplane, dirt track,
apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship,
fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall,
tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal,
bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray,
ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag
"""
SHORT = [name.strip() for name in _NAMES.split(",")]
# Mask2Former's and OneFormer's panoptic ADE20K: other names where outdoor images have them, and
# where they share a synonym.
_OTHERS = {
    "road": "road, route",
    "sidewalk": "sidewalk, pavement",
    "earth": "earth, ground",
    "mountain": "mountain, mount",
    "rock": "rock, stone",
    "railing": "rail",
    "signboard": "signboard, sign",
    "palm": "palm, palm tree",
    "hovel": "hovel, hut, hutch, shack, shanty",
    "streetlight": "street lamp",
    "land": "land, ground, soil",
    "bannister": "bannister, banister, balustrade, balusters, handrail",
    "poster": "poster, posting, placard, notice, bill, card",
    "minibike": "minibike, motorbike",
    "bridge": "bridge, span",
    "stairway": "stairway, staircase",
    "step": "step, stair",
    "screen door": "screen door, screen",
    "blind": "blind, screen",
}
PANOPTIC = [_OTHERS.get(name, name) for name in SHORT]
