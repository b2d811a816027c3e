"""Which tensors are merged: presets, their sums and differences, or a regular expression.

Names are transformers' on-disk names (``revt_hf.checkpoints.names``). A selection is one of

- presets joined by ``+`` and ``-``, evaluated from left to right: ``backbone-norm``,
  ``stage1+stage2``. All but ``all`` and ``head`` lie within the backbone. ``norm`` is every
  LayerNorm, as the original's ``.*norm.*``. The head's BatchNorm, which the original calls ``bn``,
  is neither in ``norm`` nor in ``no_norm``.
- ``blocks:K``, a preset as well: the first K steps of the original's pyramid from input to output,
  patch_embed1, block1.0, block1.1, ..., norm1, patch_embed2, ..., norm4.
- any other text, or any text after ``re:``: a regular expression that must match from the start
  of a name (``re.match``, as in the original): the name on disk or the original's name.
- any text after ``original:``: a regular expression for the original's names alone. ``.*norm.*``
  needs this to leave the head's ``batch_norm`` out; so do negations, because ``(?!.*attn)``
  excludes no name on disk.
"""

import difflib
import re
import time
from collections.abc import Callable, Iterable, Sequence

from revt_hf.checkpoints import names as tensor_names
from revt_hf.checkpoints.names import BACKBONE_PREFIX, HEAD_PREFIX
from revt_hf.core.errors import UserError

_BACKBONE = re.escape(BACKBONE_PREFIX)
_STAGES = 4

# Matched from the start of a name on disk.
PRESETS: dict[str, re.Pattern[str]] = {
    name: re.compile(pattern)
    for name, pattern in (
        ("backbone", _BACKBONE),
        ("head", re.escape(HEAD_PREFIX)),
        ("all", ""),
        ("norm", rf"{_BACKBONE}.*norm"),
        ("no_norm", rf"{_BACKBONE}(?!.*norm)"),
        ("attention", rf"{_BACKBONE}.*\.attention\."),
        ("mlp", rf"{_BACKBONE}.*\.mlp\."),
        ("patch_embed", rf"{_BACKBONE}encoder\.patch_embeddings\."),
        *(
            (f"stage{stage + 1}", rf"{_BACKBONE}encoder\.\w+\.{stage}\.")
            for stage in range(_STAGES)
        ),
    )
}
_BLOCKS = "blocks:"
_REGEX = "re:"
_ORIGINAL = "original:"
_LONGEST_REGEX = 50_000
_SHOWN = 80
_MATCHING_SECONDS = 2.0

# The order of a stage's parts is that of the pyramid's steps.
_PARTS = ("patch_embeddings", "block", "layer_norm")
_STEP = re.compile(rf"{_BACKBONE}encoder\.({'|'.join(_PARTS)})\.(\d+)\.(?:(\d+)\.)?")


def select(text: str, names: Sequence[str]) -> list[str]:
    """The selected names, in their order.

    Args:
        text: the selection, see the module's docstring.
        names: on-disk names of all tensors of the model.

    Raises:
        UserError: no selection, an invalid regular expression (with the position), a K beyond
            the steps of this model, or a selection without tensors (with the preset that
            was probably meant).
    """
    expression = text.strip()
    terms = _terms(expression)
    chosen: set[str] = set()
    if terms:
        for sign, term in terms:
            found = _preset(term, names)
            chosen = chosen - found if sign == "-" else chosen | found
    else:
        chosen.update(filter(_pattern(expression), names))
    if not chosen:
        raise UserError(_nothing_found(expression, bool(terms), names))
    return [name for name in names if name in chosen]


def original_name(disk_name: str) -> str | None:
    """The original implementation's name of a tensor, None if it has no such tensor.

    Key and value share one name: the original holds both in a fused ``attn.kv``.
    """
    original = tensor_names.original_name(disk_name)
    back = map(tensor_names.disk_name, tensor_names.memory_names(original))
    return original if original != disk_name and disk_name in back else None


def _terms(expression: str) -> list[tuple[str, str]]:
    """Sign and preset of each term; none if the text is no combination of presets."""
    if expression.startswith((_REGEX, _ORIGINAL)):
        return []
    pieces = [piece.strip() for piece in re.split("([+-])", f"+{expression}")]
    terms = list(zip(pieces[1::2], pieces[2::2], strict=True))
    counts = any(term.startswith(_BLOCKS) for _, term in terms)
    return terms if counts or all(term in PRESETS for _, term in terms) else []


def _preset(term: str, names: Iterable[str]) -> set[str]:
    if term in PRESETS:
        return {name for name in names if PRESETS[term].match(name)}
    if not term.startswith(_BLOCKS):
        raise UserError(f"'{term}' is no preset: use {_preset_names()}")
    step_of = {name: _step(name) for name in names}
    steps = sorted({step for step in step_of.values() if step})
    digits = re.fullmatch("0*([0-9]{1,9})", term.removeprefix(_BLOCKS))
    count = int(digits[1]) if digits else 0
    if not 1 <= count <= len(steps):
        raise UserError(
            f"the selection '{term[:40]}' needs a whole number from 1 to {len(steps)}, the steps "
            "of this model's encoder"
        )
    wanted = set(steps[:count])
    return {name for name, step in step_of.items() if step in wanted}


def _step(name: str) -> tuple[int, int, int] | None:
    """A tensor's position in the pyramid: stage, part of the stage, block."""
    found = _STEP.match(name)
    if not found:
        return None
    block = int(found[3] or 0) if found[1] == "block" else 0
    return int(found[2]), _PARTS.index(found[1]), block


def _pattern(expression: str) -> Callable[[str], bool]:
    """Whether a name matches the regular expression; all names together in bounded time."""
    alone = expression.startswith(_ORIGINAL)
    text = expression.removeprefix(_ORIGINAL if alone else _REGEX)
    if not text:
        raise UserError(f"the selection is empty: use a preset ({_preset_names()}) or a regex")
    if len(text) > _LONGEST_REGEX:
        raise UserError(
            f"the selection '{text[:_SHOWN]}...' is longer than {_LONGEST_REGEX} characters"
        )
    import regex

    try:
        # The standard library decides what a regex is; it cannot stop one that backtracks.
        re.compile(text)
        pattern = regex.compile(text)
    except (re.error, regex.error) as error:
        where = "" if error.pos is None else f" at position {error.pos}"
        raise UserError(
            f"the selection '{text[:_SHOWN]}' is no regex: {error.msg}{where}"
        ) from error
    except (OverflowError, RecursionError) as error:
        raise UserError(f"the selection '{text[:_SHOWN]}' is no regex: {error}") from error
    left = _MATCHING_SECONDS

    def found(name: str) -> bool:
        nonlocal left
        start = time.monotonic()
        try:
            return pattern.match(name, timeout=max(left, 1e-3)) is not None
        except TimeoutError as error:
            raise UserError(
                f"the selection '{text[:_SHOWN]}' takes more than {_MATCHING_SECONDS:g} seconds: "
                "nested repetitions such as (a+)+ are slow, write it without"
            ) from error
        finally:
            left -= time.monotonic() - start

    def matches(name: str) -> bool:
        original = original_name(name)
        return (not alone and found(name)) or (original is not None and found(original))

    return matches


def _nothing_found(expression: str, is_preset: bool, names: Sequence[str]) -> str:
    message = f"the selection '{expression[:_SHOWN]}' selects no tensor"
    meant = None if is_preset else _meant(expression.lower())
    if meant:
        return f"{message}: did you mean '{meant}'?"
    if is_preset or not names:
        return f"{message} of the model's {len(names)}"
    return f"{message}: it is no preset ({_preset_names()}) and no regex for names like {names[0]}"


def _meant(expression: str) -> str | None:
    """The presets that a text was probably meant to be."""
    whole = difflib.get_close_matches(expression, PRESETS, 1, 0.8)
    if whole:
        return whole[0]
    pieces = [piece.strip() for piece in re.split("([+-])", expression)]
    for place, term in enumerate(pieces):
        if term in PRESETS or term in ("+", "-"):
            continue
        steps = re.fullmatch(r"blocks?\W*([0-9]+)", term)
        close = difflib.get_close_matches(term, PRESETS, 1)
        if not steps and not close:
            return None
        pieces[place] = f"{_BLOCKS}{steps[1]}" if steps else close[0]
    return "".join(pieces)


def _preset_names() -> str:
    return ", ".join((*PRESETS, f"{_BLOCKS}K"))
