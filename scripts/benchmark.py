"""Compare this project's speed with other ways of doing the same work."""

import argparse
import sys
from pathlib import Path

from benchmarks.runner import run

from revt_hf.core.errors import UserError


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", metavar="NAME", action="append", default=[], help="this row")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the results here")
    arguments = parser.parse_args()
    try:
        agreed = run(arguments.only, arguments.json)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0 if agreed else 1


if __name__ == "__main__":
    sys.exit(main())
