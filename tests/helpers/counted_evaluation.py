"""What test_sharing starts twice, with torchrun: `revt evaluate`, and who decoded what."""

import sys
from pathlib import Path

from revt_hf.cli.main import main
from revt_hf.core.processes import process_state
from revt_hf.evaluation import evaluate

_batches = evaluate.image_batches


def _counted(images, indices, *rest):
    state = process_state()
    name = f"{state.process_index}-of-{state.num_processes}"
    Path(sys.argv[1], name).write_text(" ".join(map(str, indices)))
    yield from _batches(images, indices, *rest)


if __name__ == "__main__":
    evaluate.image_batches = _counted
    try:
        main(["evaluate", "/nowhere", "--domain", "streets"])
    except SystemExit as end:
        print(f"ended with {end.code}")
    main(["evaluate", *sys.argv[2:]])
