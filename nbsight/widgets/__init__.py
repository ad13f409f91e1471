"""Live views of results, one file each. They may call anything below and never each other."""

from nbsight.widgets.lens import LensWidget
from nbsight.widgets.norms import NormsWidget
from nbsight.widgets.patching import PatchingWidget

__all__ = ["LensWidget", "NormsWidget", "PatchingWidget"]
