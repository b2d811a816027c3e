"""Names in figures: neither formulas nor control characters nor hidden labels."""

import warnings

import pytest

from revt_hf.results.figures import figure, legend_name, short_names

NAMES = ["$\\frac{$", "a_b^{", "\\", "{%s}", "$x$ and $", "_hidden", "a\x1b[31m\nb"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_can_be_drawn(tmp_path, name):
    with warnings.catch_warnings(), figure(tmp_path / "f.png", 2, 2) as (drawing, axes):
        # A legend without entries is a warning.
        warnings.simplefilter("error")
        axis = axes[0][0]
        axis.plot([0, 1], [0, 1], label=legend_name(name))
        axis.set_title(short_names([f"runs/{name}", "runs/other"])[0])
        axis.set_xlabel(name.replace("\x1b", ""))
        axis.legend()
        drawing.suptitle(legend_name(name))
        assert len(axis.get_legend().get_texts()) == 1
    assert (tmp_path / "f.png").stat().st_size > 0
