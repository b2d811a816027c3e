"""Settings that every test shares."""

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
# Tests compare bits, and a GPU's kernels add in any order; test_accelerator.py covers devices.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# Tests run side by side; threads that wait for a busy core would slow each other down.
os.environ.setdefault("OMP_NUM_THREADS", "1")
