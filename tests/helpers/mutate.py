"""Seeded mutations of texts, JSON values and bytes, and the allowed outcomes.

``FUZZ_CASES=10000`` runs more of them, ``FUZZ_SEED=7`` others.
"""

import contextlib
import copy
import os
import random
import signal
import time
import unicodedata

from revt_hf.core.errors import UserError

COUNT = int(os.environ.get("FUZZ_CASES", "300"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
# Of CPU time for one case.
SECONDS = 5.0

# YAML that trips programs which trust their input; most of it is JSON, too.
SCALARS = (
    "null", "true", "~", "0", "-1", "1", "2", "31", "1e400", "1.0e+26",
    "100000000000000000000000000", "-9223372036854775809", ".inf", "-.inf", ".nan", "0.0", "-0.0",
    "1e-320", "2001-99-99", "2001-01-01", "0x1G", "0o9", "1_000", "12:61:61", "''", "'\\0'",
    "\"\\e[31m\"", "\"\\u202e\"", "\"\\n\"", "!!int x", "!!bool q", "!!float z", "!!timestamp 1",
    "!!binary '#'", "!!python/object:os.system", "!!set {a, b}", "!!omap [a: 1]", "!!pairs [a]",
    "!unknown x", "[]", "{}", "[1, 2]", "[[]]", "{a: 1}", "{a: {b: {}}}", "{[1]: 2}", "? {a: 1}",
    "*nowhere", "&a [*a]", "<<", "{<<: 3}", "{<<: [{a: 1}, 2]}", "$HOME", "$NOT_SET_ANYWHERE",
    "~nobody/x", "/dev/null", "..", "a" * 300, "[" * 300, "é", "\u2028", "'%s %d {0} {x}'", "\\[",
    "(a+)+$", "b0", "mit-b5", "blocks:1..999999999",
)  # fmt: skip
_ODD = (*"[]{}&*!|>'\"%@`,:?-#\t\0\x1b\ufeff", "---\n", "...\n", "\x85", "\ud800")


def cases(name, count=COUNT):
    """``count`` random generators, each with the name of its case; always the same ones."""
    for number in range(count):
        where = f"{name}, case {number} of seed {SEED}"
        yield random.Random(where), where


def reads_or_refuses(load, where):
    """The result of ``load``; None for a UserError of one printable line. All else fails."""
    since, result = time.process_time(), None
    try:
        with _no_longer_than(20 * SECONDS, where):
            result = load()
    except UserError as error:
        assert is_printable(str(error)) and 0 < len(str(error)) < 20_000, where
    except Exception as error:
        raise AssertionError(f"{where}: {type(error).__name__}: {str(error)[:500]}") from error
    took = time.process_time() - since
    assert took < SECONDS, f"{where}: took {took:.1f} s"
    return result


def mutated_text(text, rng):
    """A text with one to four edits of lines, values or characters."""
    for _ in range(rng.randint(1, 4)):
        text = _edited(text, rng) or " "
    return text


def _edited(text, rng):
    lines, at = text.split("\n"), rng.randrange(len(text) + 1)
    line = rng.randrange(len(lines))
    match rng.randrange(9):
        case 0 | 1 | 2:
            key, colon, _ = lines[line].partition(": ")
            lines[line] = f"{key}{colon}{rng.choice(SCALARS)}"
        case 3:
            del lines[line]
        case 4:
            lines.insert(line, rng.choice(lines))
        case 5:
            lines[line] = rng.choice(("  ", " ", "\t", "- ", "? ", "<<: ")) + lines[line]
        case 6:
            return text[:at] + rng.choice(_ODD) + text[at:]
        case 7:
            return text[:at] + text[at + rng.choice((1, 2, 10)) :]
        case _:
            words = [word for word in text.replace(":", " ").split() if word.isidentifier()]
            word = rng.choice(words or [" "])
            return text.replace(word, _mutated_name(word, rng), 1)
    return "\n".join(lines)


def mutated_bytes(data, rng):
    """Bytes with one to four edits: flipped, cut, doubled, taken out, put in, set to 0 or 255."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        length = rng.choice((1, 1, 2, 4, 8, rng.randint(1, 64)))
        kind = rng.randrange(7)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[at : at + length]
        elif kind == 4:
            data[at:at] = rng.randbytes(length)
        elif kind == 5:
            data[at : at + length] = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * length
        else:
            data[at : at + length] = rng.randbytes(length)
    return bytes(data)


def mutated_json(value, rng):
    """A copy of a JSON value with one to three places replaced, removed, renamed or added."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        places = list(_places(value))
        if not places:
            return rng.choice(JSON_VALUES)
        holder, key = rng.choice(places)
        kind = rng.randrange(5)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[_mutated_name(str(key), rng)] = holder.pop(key)
        elif kind == 2:
            other_holder, other_key = rng.choice(places)
            holder[key] = copy.deepcopy(other_holder[other_key])
        elif kind == 3 and isinstance(holder, list):
            holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(rng.choice(JSON_VALUES)))
        else:
            holder[key] = copy.deepcopy(rng.choice(JSON_VALUES))
    return value


JSON_VALUES = (
    None, True, False, 0, -1, 1, 2, 10**26, -(10**26), 1e308, float("inf"), float("nan"), 0.5, "",
    "x", "a" * 5000, "\0", "\x1b[31m", "\n", "\u202e", "..", "/", "%s{0}", [], {}, [[]], [None],
    {"": None}, {"a": {"a": {}}}, [0] * 50, "cuda", "float32", "F32",
)  # fmt: skip


@contextlib.contextmanager
def _no_longer_than(seconds, where):
    def late(*_):
        raise AssertionError(f"{where}: still not over after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _places(value):
    """(holder, key) of everything inside of a JSON value."""
    pairs = value.items() if isinstance(value, dict) else ()
    for key, inner in enumerate(value) if isinstance(value, list) else pairs:
        yield value, key
        yield from _places(inner)


def _mutated_name(name, rng):
    return rng.choice((f"{name}s", name[:-1], name.upper(), "", "a.b", "\x1b[0m", "extends", "<<"))


def is_printable(text):
    """Whether a text moves no cursor, colours nothing and changes no direction of writing."""
    return not any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") for char in text)
