"""Live views of results, one file each. They may call anything below and never each other."""

from nbsight.widgets.inspector import InspectorWidget
from nbsight.widgets.jobs import JobsWidget
from nbsight.widgets.lens import LensWidget
from nbsight.widgets.norms import NormsWidget
from nbsight.widgets.patching import PatchingWidget
from nbsight.widgets.stepper import StepperWidget

__all__ = ["InspectorWidget", "JobsWidget", "LensWidget", "NormsWidget", "PatchingWidget", "StepperWidget"]
