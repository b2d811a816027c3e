"""`revt train` as a script, for `accelerate launch scripts/train.py RECIPE --output DIR`."""

import sys
from pathlib import Path

# Python puts this folder first, where evaluate.py would hide the library of that name.
sys.path = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

from revt_hf.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
