"""nbsight and TransformerLens say the same of the same weights (`python3 dev.py peers` installs it)."""

from __future__ import annotations

import pytest

pytest.importorskip("transformer_lens", reason="TransformerLens is not installed: python3 dev.py peers")

from tests.peers.agreement import FAMILIES, Family, differences  # needs what was asked for above


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_both_say_the_same_of_the_same_weights(family: Family) -> None:
    found = differences(family)
    sites = {f"patching: {site}" for site in family.sites}
    streams = {*family.sites, "logits", "lens: probability", "lens: entropy", "lens: KL"}
    assert found.keys() == sites | streams | {"patching: clean and corrupted"}
    for name, (apart, size) in found.items():
        assert size > 0.1, f"{name} is next to nothing, so that nothing is compared"
        assert apart < 2e-5 * max(1.0, size), f"{name} differs by {apart} of {size}"
