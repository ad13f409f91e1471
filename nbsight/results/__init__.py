"""What analyses return: frozen records of numpy arrays that know how to show and export themselves."""

from nbsight.results.lens import Lens, LensCell

__all__ = ["Lens", "LensCell"]
