"""SAELens computes the same features and reconstructions from the same folders."""

from __future__ import annotations

import pytest
import torch

from nbsight.analysis.sae_files import load_sae
from tests.analysis.saes import CASES, D_IN, write

sae_lens = pytest.importorskip("sae_lens", reason="SAELens is installed by `dev.py peers` only")


@pytest.mark.parametrize("case", CASES)
def test_features_and_reconstructions_agree(case, tmp_path):
    folder = write(tmp_path, case)
    theirs = sae_lens.SAE.load_from_disk(folder)
    ours = load_sae(folder)
    x = torch.randn(2, 5, D_IN, generator=torch.Generator().manual_seed(1))
    given = x.unflatten(-1, (4, 16)) if case == "heads" else x
    with torch.no_grad():
        acts, out = theirs.encode(given), theirs(given)
    assert (acts > 0).any()
    torch.testing.assert_close(ours.encode(given), acts, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours(given).reshape(out.shape), out, atol=2e-5, rtol=1e-5)
