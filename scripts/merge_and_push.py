"""`revt merge-and-push` as a script: A B C OWNER/NAME --output FOLDER."""

import sys

from revt_hf.cli.main import main

if __name__ == "__main__":
    main(["merge-and-push", *sys.argv[1:]])
