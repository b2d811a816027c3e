"""Where the command line meets the system: options, signals, closed outputs, names, full disks."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest

from revt_hf.cli.main import main
from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import UserError
from revt_hf.evaluation.loading import image_batches
from tests.helpers.command_line import refused, revt

# Programs whose only command is ``work``.
_PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from revt_hf.cli import main as cli
{work}
cli._call = work
cli.main(sys.argv[1:])
"""
WRITING = """
from revt_hf.core.outputs import atomic_folder
def work(arguments):
    with atomic_folder(Path(arguments[0])) as scratch:
        (scratch / "half").write_text("half")
        print("begun", flush=True)
        time.sleep(600)
"""
# Python itself drops what is raised in a fork hook.
FORKING = """
def ended_while_forking():
    signal.raise_signal(signal.SIGTERM)
    for _ in range(1000):
        pass
os.register_at_fork(before=ended_while_forking)
def work(arguments):
    if not os.fork():
        os._exit(0)
    time.sleep(600)
"""
LOADING = """
from revt_hf.config.protocol import Protocol
from revt_hf.evaluation.loading import image_batches
class Images:
    def __len__(self):
        return 2
    def __getitem__(self, index):
        print("begun", flush=True)
        time.sleep(600)
def work(arguments):
    list(image_batches(Images(), range(2), Protocol(max_size=None), 1, 1))
"""


def _start(command, *ignored, **more):
    """Start a process with signals as in a terminal: shells ignore some of the background's."""

    def signals():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

    more = {"stdout": subprocess.PIPE, **more}
    return subprocess.Popen(
        [sys.executable, *command], stderr=subprocess.PIPE, text=True, preexec_fn=signals, **more
    )


def _begun(work, *arguments, ignored=()):
    process = _start(["-c", _PROGRAM.format(work=work), *map(str, arguments)], *ignored)
    assert process.stdout.readline() == "begun\n"
    return process


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train"], "missing argument"),
        (["train", "x.yaml"], "missing option '--output'"),
        (["train", "x.yaml", "--output", "y", "--bogus"], "no such option: --bogus"),
        (["trian"], "no such command 'trian'"),
        (["run", "x.yaml", "--output", "y", "--jobs", "0"], "'--jobs'"),
        (["run", "x.yaml", "--output", "y", "--jobs", "many"], "'--jobs'"),
        (["run", "x.yaml", "--output", "y", "--jobs", "1000000"], "'--jobs'"),
        (["evaluate", "x", "--domain", "streets", "--workers", "1000000"], "'--workers'"),
        (["recipe", "shew"], "no such command 'shew'"),
        (["merge", "--head", "first"], "--head"),
        (["data", "prepare"], "missing argument"),
        ([], "name a command"),
    ],
)
def test_wrong_options_are_one_sentence(capsys, arguments, words):
    (line,) = refused(capsys, *arguments).splitlines()
    assert words in line
    assert "--help" in line


@pytest.mark.parametrize(
    ("work", "number", "code"),
    [
        (WRITING, signal.SIGINT, 130),
        (WRITING, signal.SIGTERM, 143),
        (WRITING, signal.SIGHUP, 129),
        # Standard output ends with the last process that holds it.
        (LOADING, signal.SIGTERM, 143),
    ],
    ids=["ctrl-c", "sigterm", "sighup", "workers"],
)
def test_signals_are_silent_and_leave_nothing(tmp_path, work, number, code):
    process = _begun(work, tmp_path / "out" / "done")
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (code, "")
    assert not [path for path in tmp_path.glob("out/*") if "lock" not in path.name]


def test_a_signal_while_processes_start_is_not_lost():
    process = _start(["-c", _PROGRAM.format(work=FORKING)])
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (143, "")


def test_signals_that_are_ignored_stay_ignored(tmp_path):
    process = _begun(WRITING, tmp_path / "done", ignored=[signal.SIGHUP])
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.kill()
    process.communicate()


class _Ending:
    """Images whose reader is ended, as by a system without memory."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(600)


def test_a_worker_that_is_ended_is_one_sentence(monkeypatch, capsys):
    def work(_):
        return len(list(image_batches(_Ending(), range(2), Protocol(max_size=None), 1, 1)))

    monkeypatch.setattr("revt_hf.cli.main._call", work)
    error = refused(capsys)
    assert error.startswith("error: a process that loads images was ended from outside")
    assert error.count("\n") == 1


def test_handlers_of_a_caller_come_back(capsys):
    before = signal.getsignal(signal.SIGTERM)
    revt(capsys, "recipe", "show", "/nowhere.yaml")
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_output_that_nobody_reads_is_silent():
    reading, writing = os.pipe()
    os.close(reading)
    process = _start(["-m", "revt_hf.cli.main", "recipe", "schema"], stdout=writing)
    os.close(writing)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_at_the_output_is_one_sentence():
    with Path("/dev/full").open("w") as full:
        process = _start(["-m", "revt_hf.cli.main", "recipe", "schema"], stdout=full)
        _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (2, "error: No space left on device\n")


@pytest.mark.parametrize(
    ("printed", "arguments", "code"),
    [
        ("mIoU 50", [], 2),
        ("mIoU 50", ["--json", "x.json"], 0),
        ("mIoU 50", ["--output=x"], 0),
        (None, [], 0),
    ],
)
def test_a_closed_output_loses_no_result_silently(monkeypatch, capsys, printed, arguments, code):
    monkeypatch.setattr("revt_hf.cli.main._call", lambda _: (printed and print(printed)) or 0)
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *arguments])
    sentence = "error: standard output is closed: what was to be printed is lost\n"
    assert (ended.value.code, capsys.readouterr().err) == (code, sentence if code else "")


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (OSError(28, "No space left on device", "/a\x1b[31m"), r"/a\x1b[31m: No space left"),
        (OSError(13, "Permission denied", "/home/me/.cache/x"), "set HF_HOME to a folder"),
        (MemoryError(), "memory"),
        (UserError("no \nerror: forged"), r"no \nerror: forged"),
    ],
)
def test_predictable_errors_are_one_sentence(monkeypatch, capsys, problem, words):
    monkeypatch.setattr("revt_hf.cli.main._call", Mock(side_effect=problem))
    code, _, error = revt(capsys, "anything")
    assert (code, error.count("\n")) == (2, 1)
    assert words in error


@pytest.mark.parametrize("problem", [ValueError("a bug"), OSError("a library's own")])
def test_bugs_stay_visible(monkeypatch, problem):
    monkeypatch.setattr("revt_hf.cli.main._call", Mock(side_effect=problem))
    with pytest.raises(type(problem)):
        main([])


def test_names_cannot_forge_lines_or_draw_on_the_terminal(capsys):
    code, out, error = revt(capsys, "recipe", "show", "a\x1b[31m\nerror: b\u202e\udcff.yaml")
    assert code == 2
    assert error.count("\n") == 1
    assert r"a\x1b[31m\nerror: b\u202e\udcff.yaml: this name is not UTF-8" in error
    assert "\x1b" not in out + error


def test_what_is_printed_is_escaped_and_letters_stay(monkeypatch, capsys):
    printed = "two\nlines, \x1b[2J and \x07, Größe, 図, a\\b, a\u00a0b"
    monkeypatch.setattr("revt_hf.cli.main._call", lambda _: print(printed) or 0)
    shown = "two\nlines, \\x1b[2J and \\x07, Größe, 図, a\\b, a\u00a0b\n"
    assert revt(capsys)[1] == shown


@pytest.mark.parametrize(("file", "words"), [("FOLDER", " is a folder"), ("-", "- is not a file")])
@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "no.yaml", "--output", "out"],
        ["evaluate", "no", "--domain", "streets"],
        ["data", "verify", "streets"],
        ["merge", "a", "b", "--output", "out"],
    ],
    ids=lambda words: words[0],
)
def test_json_files_are_checked_before_the_work(
    capsys, tmp_path, monkeypatch, arguments, file, words
):
    monkeypatch.chdir(tmp_path)
    file = tmp_path if file == "FOLDER" else file
    assert words in refused(capsys, *arguments, "--json", file)
    assert list(tmp_path.iterdir()) == []


def test_help_needs_no_torch():
    code = (
        "import sys; from revt_hf.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("script", ["train", "evaluate_models", "merge", "benchmark"])
def test_scripts_start(script):
    command = [sys.executable, f"scripts/{script}.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "sage" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_get_a_completion_script_and_completions(shell):
    def call(*arguments, **variables):
        command, env = [sys.executable, "-m", "revt_hf.cli.main"], {**os.environ, **variables}
        return subprocess.run([*command, *arguments], env=env, capture_output=True, text=True)

    script = call(*("--show-completion", shell), _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert (script.returncode, script.stderr) == (0, "")
    assert f"_REVT_COMPLETE=complete_{shell}" in script.stdout
    typed = {"COMP_WORDS": "revt eval", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "revt eval"}
    action = {"_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    found = call(_REVT_COMPLETE=f"complete_{shell}", **action, **typed)
    assert "evaluate" in found.stdout, found.stderr
