"""The whole idea on built-in street scenes: train, merge, compare, one page to look at."""
