"""Run commands of the command line inside the test process."""

import pytest

from revt_hf.cli.main import main


def revt(capsys, *arguments):
    """Run in this process: exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return caught.value.code or 0, captured.out, captured.err


def refused(capsys, *arguments):
    """Run what must be refused: exit code 2 and one sentence."""
    code, _, error = revt(capsys, *arguments)
    assert code == 2, error
    # Remarks on what was found may come before it.
    assert error.splitlines()[-1].startswith("error: "), error
    assert error.count("error: ") == 1, error
    assert "Traceback" not in error
    return error
