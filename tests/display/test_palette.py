"""The colours can be read by everybody, and Python and TypeScript use the same ones."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from nbsight.display.palette import DARK, LIGHT, ink_on, luminance, ramp

STEPS = np.linspace(0, 1, 513)


@pytest.mark.parametrize("stops", [LIGHT, DARK])
def test_text_on_every_colour_has_a_contrast_of_at_least_four_and_a_half(stops):
    colours = ramp(STEPS, stops)
    light = luminance(colours)
    black = ink_on(colours) == "#000000"
    assert np.where(black, (light + 0.05) / 0.05, 1.05 / (light + 0.05)).min() >= 4.5


@pytest.mark.parametrize(("stops", "sign"), [(LIGHT, -1), (DARK, 1)])
def test_lightness_changes_in_one_direction_only(stops, sign):
    assert (np.diff(luminance(ramp(STEPS, stops))) * sign > 0).all()


def test_values_outside_the_range_take_the_colour_of_the_nearer_end():
    np.testing.assert_array_equal(ramp(np.array([-1.0, 2.0, np.nan])), ramp(np.array([0.0, 1.0, 0.0])))


@pytest.mark.parametrize("name", ["LIGHT", "DARK"])
def test_the_page_uses_the_same_colours(name):
    source = (Path(__file__).parents[2] / "js" / "src" / "shared" / "palette.ts").read_text()
    found = re.search(rf"{name}\b[^=]*= \[(.*?)\]", source, re.DOTALL)
    assert found, f"js/src/shared/palette.ts has no {name}"
    assert tuple(re.findall(r"#[0-9a-f]{6}", found[1])) == {"LIGHT": LIGHT, "DARK": DARK}[name]
