"""The small language model that ships with the package.

Twelve GPT-2 layers, trained on sentences that `recipe.py` makes up; `CARD.md` says what it knows. It needs no
network, and both functions of transformers that read a folder read this one:

    >>> from nbsight.models import demo
    >>> sorted(path.name for path in demo.folder().iterdir())[0]
    'config.json'
"""

from importlib.resources import files
from pathlib import Path

__all__ = ["NAME", "folder"]

NAME = "nbsight/demo"
"""What to write where a model's name is asked for: `LanguageModel("nbsight/demo")`."""


def folder() -> Path:
    """Return the folder of the weights and the tokenizer, in the layout of the Hugging Face hub."""
    # A wheel is unpacked when it is installed, so the resource is always a real folder.
    return Path(str(files(__name__) / "weights"))
