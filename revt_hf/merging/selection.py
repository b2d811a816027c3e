"""Which tensors are merged: presets, their sums and differences from left to right, or a regex.

docs/merging.md describes the language. A regex must match from the start of a name (``re.match``,
as in the original): the name on disk or the original's. The head's BatchNorm, which the original
calls ``bn``, is neither in ``norm`` nor in ``no_norm``.
"""

import difflib
import re
import time
from collections.abc import Callable, Mapping, Sequence

from revt_hf.checkpoints.families import SEGFORMER, Family
from revt_hf.checkpoints.names import BACKBONE_PREFIX, HEAD_PREFIX, original_name
from revt_hf.core.errors import UserError

_BACKBONE = re.escape(BACKBONE_PREFIX)


def _presets(encoder: str, head: str) -> dict[str, str]:
    """Regular expressions, matched from the start of a name on disk."""
    return {
        "backbone": encoder,
        "head": head,
        "all": "",
        "norm": rf"{encoder}.*norm",
        "no_norm": rf"{encoder}(?!.*norm)",
        "attention": rf"{encoder}.*\.attention\.",
        "mlp": rf"{encoder}.*\.mlp\.",
    }


# SegFormer's; other families have no stages.
PRESETS = {
    **_presets(_BACKBONE, re.escape(HEAD_PREFIX)),
    "patch_embed": rf"{_BACKBONE}encoder\.patch_embeddings\.",
    **{f"stage{number + 1}": rf"{_BACKBONE}encoder\.\w+\.{number}\." for number in range(4)},
}
_BLOCKS = "blocks:"
_PRESET_NAMES = ", ".join((*PRESETS, f"{_BLOCKS}K"))
_REGEX = "re:"
_ORIGINAL = "original:"
_LONGEST_REGEX = 50_000
_SHOWN = 80
_MATCHING_SECONDS = 2.0

# The order of a stage's parts is that of the pyramid's steps.
_PARTS = ("patch_embeddings", "block", "layer_norm")
_STEP = re.compile(rf"{_BACKBONE}encoder\.({'|'.join(_PARTS)})\.(\d+)\.(?:(\d+)\.)?")


def pyramid_step(name: str) -> tuple[int, int, int] | None:
    """Stage, part of the stage (patch embedding, block, norm) and block, from 0; None elsewhere."""
    found = _STEP.match(name)
    return (int(found[2]), _PARTS.index(found[1]), int(found[3] or 0)) if found else None


def select(text: str, names: Sequence[str], family: Family = SEGFORMER) -> list[str]:
    """The selected ones of a model's on-disk names, in their order."""
    expression = text.strip()
    encoder = family.encoder_pattern
    presets = PRESETS if family is SEGFORMER else _presets(encoder, f"(?!{encoder})")
    terms = _terms(expression)
    chosen = set() if terms else set(filter(_pattern(expression), names))
    for sign, term in terms:
        found = _preset(term, names, presets)
        chosen = chosen - found if sign == "-" else chosen | found
    if not chosen:
        raise UserError(_nothing_found(expression, bool(terms), names))
    return [name for name in names if name in chosen]


def _terms(expression: str) -> list[tuple[str, str]]:
    """Sign and preset of each term; none if the text is no combination of presets."""
    if expression.startswith((_REGEX, _ORIGINAL)):
        return []
    pieces = [piece.strip() for piece in re.split("([+-])", f"+{expression}")]
    terms = list(zip(pieces[1::2], pieces[2::2], strict=True))
    counts = any(term.startswith(_BLOCKS) for _, term in terms)
    return terms if counts or all(term in PRESETS for _, term in terms) else []


def _preset(term: str, names: Sequence[str], presets: Mapping[str, str]) -> set[str]:
    if term in presets:
        return {name for name in names if re.match(presets[term], name)}
    if presets is not PRESETS:
        raise UserError(f"'{term}' is for SegFormers only: use {', '.join(presets)} or a regex")
    if not term.startswith(_BLOCKS):
        raise UserError(f"'{term}' is no preset: use {_PRESET_NAMES}")
    step_of = {name: step for name in names if (step := pyramid_step(name))}
    steps = sorted(set(step_of.values()))
    digits = re.fullmatch("0*([0-9]{1,9})", term.removeprefix(_BLOCKS))
    count = int(digits[1]) if digits else 0
    if not 1 <= count <= len(steps):
        raise UserError(
            f"the selection '{term[:40]}' needs a whole number from 1 to {len(steps)}, the steps "
            "of this model's encoder"
        )
    wanted = set(steps[:count])
    return {name for name, step in step_of.items() if step in wanted}


def _pattern(expression: str) -> Callable[[str], bool]:
    """Whether a name matches the regular expression; all names together in bounded time."""
    alone = expression.startswith(_ORIGINAL)
    text = expression.removeprefix(_ORIGINAL if alone else _REGEX)
    if not text:
        raise UserError(f"the selection is empty: use a preset ({_PRESET_NAMES}) or a regex")
    label = f"the selection '{text[:_SHOWN]}'"
    if len(text) > _LONGEST_REGEX:
        raise UserError(f"{label} ... is longer than {_LONGEST_REGEX} characters")
    import regex

    try:
        # The standard library decides what a regex is; it cannot stop one that backtracks.
        re.compile(text)
        pattern = regex.compile(text)
    except (re.error, regex.error) as error:
        where = "" if error.pos is None else f" at position {error.pos}"
        raise UserError(f"{label} is no regex: {error.msg}{where}") from error
    except (OverflowError, RecursionError) as error:
        raise UserError(f"{label} is no regex: {error}") from error
    left = _MATCHING_SECONDS

    def matches(name: str) -> bool:
        nonlocal left
        start, original = time.monotonic(), original_name(name)
        # Of a tensor that the original lacks there is but one name.
        candidates = {original} - {name} if alone else {name, original}
        try:
            return any(pattern.match(one, timeout=max(left, 1e-3)) for one in candidates)
        except TimeoutError as error:
            raise UserError(
                f"{label} takes more than {_MATCHING_SECONDS:g} seconds: nested repetitions such "
                "as (a+)+ are slow, write it without"
            ) from error
        finally:
            left -= time.monotonic() - start

    return matches


def _nothing_found(expression: str, is_preset: bool, names: Sequence[str]) -> str:
    message = f"the selection '{expression[:_SHOWN]}' selects no tensor"
    meant = None if is_preset else _meant(expression.lower())
    if meant:
        return f"{message}: did you mean '{meant}'?"
    if is_preset or not names:
        return f"{message} of the model's {len(names)}"
    return f"{message}: it is no preset ({_PRESET_NAMES}) and no regex for names like {names[0]}"


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
