"""The tutorials' code blocks, quoted in seed/, and the three things that may differ when they run here."""

from __future__ import annotations

import json
import re
from pathlib import Path

SEED = Path(__file__).parent / "seed"
REPOSITORY = Path(__file__).resolve().parents[2]
ORIGINAL = REPOSITORY.parent / "shared" / "seed" / "nnsight-tutorials.md"
"""Where the authors keep the tutorials that the blocks were quoted from; users have no such file."""

DEMO = "nbsight/demo"

BLOCKS = [
    "01_activation_analysis",
    "02_activation_patching",
    "03_sharing_activations",
    "04_remote_execution",
    "04_remote_execution_sessions",
    "05_steering",
    "06_logit_lens",
]

NOTEBOOKS = {
    "01_activation_analysis": ["01_activation_analysis"],
    "02_activation_patching": ["02_activation_patching"],
    "03_sharing_activations": ["03_sharing_activations"],
    "04_remote_execution": ["04_remote_execution", "04_remote_execution_sessions"],
    "05_steering": ["05_steering"],
    "06_logit_lens": ["06_logit_lens"],
}
"""Which blocks each notebook holds."""


def quoted(block: str) -> str:
    """The block as the tutorials have it."""
    return (SEED / f"{block}.py").read_text(encoding="utf-8")


def original_blocks() -> list[str]:
    """The python blocks of the original, in its order."""
    text = ORIGINAL.read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def runnable(block: str, model: str = DEMO, remote: str = "local") -> str:
    """The block with its import line, its model name and where `remote` points changed.

    Args:
        block: One of BLOCKS.
        model: What `LanguageModel` loads.
        remote: Where the blocks of tutorial 4 are sent.
    """
    text = quoted(block).replace("from nnsight import LanguageModel", "from nbsight import LanguageModel")
    text = re.sub(r'LanguageModel\("[^"]*"', lambda _: f"LanguageModel({json.dumps(model)}", text)
    return re.sub(r"(?m)^(with .*)remote=True", lambda found: f"{found[1]}remote={json.dumps(remote)}", text)


def normalised(text: str) -> list[str]:
    """The lines of some code, without empty ones, with the three things that may differ blotted out."""
    text = text.replace("from nnsight import", "from nbsight import")
    text = re.sub(r"LanguageModel\([^,()\n]+", "LanguageModel(…", text)
    text = re.sub(r"""(?m)^(with .*)remote=(True|"local"|'local')""", r"\1remote=…", text)
    return [line.rstrip() for line in text.splitlines() if line.strip()]
