"""Values of command-line options that several commands share."""

import re
from collections.abc import Sequence

from revt_hf.config.yaml_files import parse_yaml
from revt_hf.core.errors import UserError

_LARGEST = 2**15


def parse_max_size(text: str, flag: str = "--max-size") -> tuple[int, int] | None:
    """``1024x512`` -> (1024, 512); ``native`` -> None.

    Raises:
        UserError: neither.
    """
    if text == "native":
        return None
    width, _, height = text.partition("x")
    sides = [int(side) for side in (width, height) if re.fullmatch("0*[0-9]{1,5}", side)]
    if len(sides) < 2 or not all(0 < side <= _LARGEST for side in sides):
        raise UserError(
            f"{flag} {text}: write WIDTHxHEIGHT, such as 1024x512, up to {_LARGEST}, or native"
        )
    return sides[0], sides[1]


def key_values(options: Sequence[str] | None) -> dict[str, object]:
    """``["size=[64, 128]"]`` -> ``{"size": [64, 128]}``; values are read as YAML.

    Raises:
        UserError: one is not KEY=VALUE, or not YAML.
    """
    values = {}
    for text in options or []:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--option {text}: write it as key=value")
        try:
            values[key] = parse_yaml(value)
        except UserError as error:
            raise UserError(f"--option {text}: the value is not YAML ({error})") from error
    return values
