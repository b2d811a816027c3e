"""`revt train` as a script, for `accelerate launch scripts/train.py RECIPE --output DIR`."""

import sys

from revt_hf.cli.main import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
