"""Live views of results, one file each. They may call anything below and never each other."""

from nbsight.widgets.lens import LensWidget

__all__ = ["LensWidget"]
