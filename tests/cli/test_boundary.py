"""Where the command line meets the system: options, signals, closed outputs, names, full disks."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from revt_hf.cli.main import main
from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import UserError, printable
from revt_hf.evaluation.loading import image_batches

WORKING = """
import sys, time
from pathlib import Path
from revt_hf.cli import main as cli
from revt_hf.core.outputs import atomic_folder
def work(arguments):
    with atomic_folder(Path(arguments[0])) as scratch:
        (scratch / "half").write_text("half")
        print("begun", flush=True)
        time.sleep(600)
cli._call = work
cli.main(sys.argv[1:])
"""


def revt(capsys, *arguments):
    """Run in this process: exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return caught.value.code or 0, captured.out, captured.err


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
        (["merge", "--bogus"], "--bogus"),
        (["merge", "--head", "first"], "--head"),
        (["data", "prepare"], "missing argument"),
    ],
)
def test_wrong_options_are_one_sentence(capsys, arguments, words):
    code, _, error = revt(capsys, *arguments)
    assert code == 2
    (line,) = error.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert "--help" in line


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
)
def test_signals_are_silent_and_leave_nothing(tmp_path, number, code):
    process = subprocess.Popen(
        [sys.executable, "-c", WORKING, str(tmp_path / "out" / "done")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Shells start what is in the background with these ignored.
        preexec_fn=lambda: [signal.signal(n, signal.SIG_DFL) for n in (signal.SIGINT, number)],
    )
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert error == ""
    assert not [path for path in (tmp_path / "out").iterdir() if "lock" not in path.name]


FORKING = """
import os, signal, sys, time
from revt_hf.cli import main as cli
# Python itself drops what is raised here.
def ended_while_forking():
    signal.raise_signal(signal.SIGTERM)
    for _ in range(1000):
        pass
os.register_at_fork(before=ended_while_forking)
def work(arguments):
    if not os.fork():
        os._exit(0)
    time.sleep(600)
cli._call = work
cli.main([])
"""


def test_a_signal_while_processes_start_is_not_lost():
    done = subprocess.run(
        [sys.executable, "-c", FORKING],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL),
    )
    assert (done.returncode, done.stderr) == (143, "")


LOADING = """
import time
from revt_hf.cli import main as cli
from revt_hf.config.protocol import Protocol
from revt_hf.evaluation.loading import image_batches
class Images:
    def __len__(self):
        return 2
    def __getitem__(self, index):
        print("begun", flush=True)
        time.sleep(600)
cli._call = lambda _: list(image_batches(Images(), range(2), Protocol(max_size=None), 1, 1))
cli.main([])
"""


class _Ending:
    """Images whose reader gets a signal, as of a system without memory."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(600)


def test_a_worker_that_is_ended_is_one_sentence(monkeypatch, capsys):
    def work(_):
        return len(list(image_batches(_Ending(), range(2), Protocol(max_size=None), 1, 1)))

    monkeypatch.setattr("revt_hf.cli.main._call", work)
    code, _, error = revt(capsys)
    assert code == 2
    assert error.startswith("error: a process that loads images was ended from outside")
    assert error.count("\n") == 1


def test_a_signal_ends_a_command_with_workers():
    process = subprocess.Popen(
        [sys.executable, "-c", LOADING],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL),
    )
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGTERM)
    # Standard output ends with the last process that holds it.
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (143, "")


def test_signals_that_are_ignored_stay_ignored(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", WORKING, str(tmp_path / "done")],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.kill()
    process.communicate()


def test_handlers_of_a_caller_come_back(capsys):
    before = signal.getsignal(signal.SIGTERM)
    revt(capsys, "recipe", "show", "/nowhere.yaml")
    assert signal.getsignal(signal.SIGTERM) is before


def _piped(*arguments, **more):
    command = [sys.executable, "-m", "revt_hf.cli.main", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **more)


def test_an_output_that_nobody_reads_is_silent():
    reading, writing = os.pipe()
    os.close(reading)
    process = _piped("recipe", "schema", stdout=writing)
    os.close(writing)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (141, "")


@pytest.mark.parametrize(
    ("arguments", "code"), [([], 2), (["--json", "x.json"], 0), (["--output=x"], 0)]
)
def test_a_closed_output_loses_no_result_silently(monkeypatch, capsys, arguments, code):
    monkeypatch.setattr("revt_hf.cli.main._call", lambda _: print("mIoU 50") or 0)
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *arguments])
    said = "error: standard output is closed: what was to be printed is lost\n"
    assert (ended.value.code, capsys.readouterr().err) == (code, said if code else "")


def test_a_closed_output_of_a_silent_command_is_no_error(monkeypatch):
    monkeypatch.setattr("revt_hf.cli.main._call", lambda _: 0)
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit) as ended:
        main(["evaluate"])
    assert ended.value.code == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_at_the_output_is_one_sentence():
    with Path("/dev/full").open("w") as full:
        process = _piped("recipe", "schema", stdout=full)
        _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (2, "error: No space left on device\n")


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (OSError(28, "No space left on device", "/a\x1b[31m"), r"/a\x1b[31m: No space left"),
        (MemoryError(), "memory"),
        (UserError("no \nerror: forged"), r"no \nerror: forged"),
    ],
)
def test_predictable_errors_are_one_sentence(monkeypatch, capsys, problem, words):
    def fail(_):
        raise problem

    monkeypatch.setattr("revt_hf.cli.main._call", fail)
    code, _, error = revt(capsys, "anything")
    assert code == 2
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("problem", [ValueError("a bug"), OSError("a library's own")])
def test_bugs_stay_visible(monkeypatch, problem):
    def fail(_):
        raise problem

    monkeypatch.setattr("revt_hf.cli.main._call", fail)
    with pytest.raises(type(problem)):
        main([])


def test_names_cannot_forge_lines_or_draw_on_the_terminal(capsys):
    code, out, error = revt(capsys, "recipe", "show", "a\x1b[31m\nerror: b\u202e\udcff.yaml")
    assert code == 2
    assert error.count("\n") == 1
    assert r"a\x1b[31m\nerror: b\u202e\udcff.yaml" in error
    assert "\x1b" not in out + error


def test_what_is_printed_is_escaped(monkeypatch, capsys):
    def say(_):
        print("two\nlines, \x1b[2J and \x07")
        return 0

    monkeypatch.setattr("revt_hf.cli.main._call", say)
    assert revt(capsys)[1] == "two\nlines, \\x1b[2J and \\x07\n"


@pytest.mark.parametrize("text", ["plain", "Größe, 図, é", "a\\b", "a\u00a0b"])
def test_letters_stay_as_they_are(text):
    assert printable(text) == text


@pytest.mark.parametrize("command", ["run", "evaluate", "data"])
def test_places_for_json_are_looked_at_before_the_work(capsys, tmp_path, command):
    arguments = {
        "run": ["run", tmp_path / "no.yaml", "--output", tmp_path / "out"],
        "evaluate": ["evaluate", tmp_path / "no", "--domain", "streets"],
        "data": ["data", "verify", "streets"],
    }[command]
    code, _, error = revt(capsys, *arguments, "--json", tmp_path)
    assert code == 2
    assert f"{tmp_path} is a folder" in error


def test_a_member_is_not_taken_for_the_repository(capsys, monkeypatch, tmp_path):
    for name in "abc":
        (tmp_path / name).mkdir()
    members = [str(tmp_path / name) for name in "abc"]
    code, _, error = revt(capsys, "merge-and-push", *members, "--output", tmp_path / "out")
    assert code == 2
    assert "not a repository" in error
    monkeypatch.chdir(tmp_path.parent)
    beside = [f"{tmp_path.name}/{name}" for name in "abx"]
    code, _, error = revt(capsys, "merge-and-push", *beside, "--output", tmp_path / "out")
    assert code == 2
    assert "not a repository" in error
