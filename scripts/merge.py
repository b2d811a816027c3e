"""`revt merge` as a script."""

import sys

from revt_hf.cli.main import main

if __name__ == "__main__":
    main(["merge", *sys.argv[1:]])
