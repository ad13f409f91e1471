"""Analyses: pure functions from a model and inputs to a frozen result. No Jupyter, no HTTP."""
