"""The colours of every picture, the same as in js/src/shared/palette.ts (a test compares them).

One sequential ramp, pale to deep on a light page and deep to pale on a dark one, so that small
values recede into the page. Its lightness changes evenly, which is what a colour-blind reader and
a grey print-out see.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["DARK", "LIGHT", "ink_on", "ramp"]

LIGHT = ("#f5f8fa", "#e0eef2", "#bfdfe6", "#92cad4", "#5dafbf", "#328fa8", "#1d6e90", "#174d74", "#122e52")
DARK = ("#18232d", "#18364a", "#184d64", "#1c687f", "#2a8495", "#4fa1a7", "#82bfba", "#b9dcd0", "#eef8ea")


def ramp(values: NDArray[np.floating], stops: tuple[str, ...] = LIGHT) -> NDArray[np.float64]:
    """Colours of values in [0, 1]: an array of the values' shape and a last axis red, green, blue in [0, 1].

    Values outside the range take the colour of the nearer end; NaN takes the lowest.
    """
    table = np.array([[int(stop[i : i + 2], 16) / 255 for i in (1, 3, 5)] for stop in stops])
    place = np.clip(np.nan_to_num(values, nan=0.0), 0, 1) * (len(stops) - 1)
    return np.stack([np.interp(place, np.arange(len(stops)), channel) for channel in table.T], axis=-1)


def luminance(rgb: NDArray[np.floating]) -> NDArray[np.float64]:
    """Relative luminance as WCAG 2 defines it, of sRGB colours in [0, 1] on the last axis."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def ink_on(rgb: NDArray[np.floating]) -> NDArray[np.str_]:
    """Black or white, whichever is the easier to read on each colour (at least 4.5 to 1)."""
    # where both have the same contrast: (L + 0.05) ** 2 == 1.05 * 0.05
    return np.where(luminance(rgb) > 0.1791, "#000000", "#ffffff")
