"""How pictures are normalised, in training and in evaluation: ImageNet, RGB, on 0..255."""

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
