"""nbsight: look inside PyTorch models, and change what happens there, in a notebook.

    %load_ext nbsight
    model = nbsight.LanguageModel("nbsight/demo")
    with model.trace("The capital of France is") as tracer:
        hidden = model.transformer.h[8].output[0].save()
        logits = model.output.save()

Importing the package is light: torch is imported when the first name that needs it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbsight.analysis.ablation import AblationSweep, ablation
    from nbsight.analysis.attribution import attribution_patching
    from nbsight.analysis.collecting import collect
    from nbsight.analysis.collection import Collection
    from nbsight.analysis.component_lens import component_lens
    from nbsight.analysis.direct import direct_attribution
    from nbsight.analysis.distributions import entropy, kl, log_probs, perplexity
    from nbsight.analysis.generation_pair import compare_generations
    from nbsight.analysis.heads import head_scores
    from nbsight.analysis.lens import logit_lens
    from nbsight.analysis.metrics import kl_divergence, log_probability, logit_difference, probability
    from nbsight.analysis.norms import stream_norms
    from nbsight.analysis.patching import PatchingSweep, activation_patching
    from nbsight.analysis.recipes import Recipe
    from nbsight.analysis.run_difference import compare_runs
    from nbsight.analysis.sae import SparseAutoencoder
    from nbsight.analysis.sae_files import load_sae
    from nbsight.compat import CONFIG, NNsightDeprecationWarning, Object
    from nbsight.core.backward import backward
    from nbsight.core.envoy import Envoy
    from nbsight.core.receipts import Receipt, Receipts
    from nbsight.core.saving import save
    from nbsight.core.stacking import stack_steps
    from nbsight.errors import (
        EditWarning,
        MemoryNotice,
        NbsightError,
        NbsightWarning,
        NotEnoughMemoryError,
        NotFiniteError,
        OrderNotice,
        OutOfOrderError,
        RemoteError,
        SourceNotAvailable,
        StorageError,
        UnknownArchitectureError,
    )
    from nbsight.models.attention_difference import attention_difference
    from nbsight.models.diffusion_model import DiffusionModel
    from nbsight.models.language_model import LanguageModel
    from nbsight.models.sizing import estimate_memory
    from nbsight.models.standard import verify
    from nbsight.models.steering import Steering
    from nbsight.models.transformers_model import TransformersModel
    from nbsight.models.vision_language_model import VisionLanguageModel
    from nbsight.models.wrapped import NNsight, wrap
    from nbsight.models.writing import Stream
    from nbsight.notebook.extension import load_ipython_extension, unload_ipython_extension
    from nbsight.remote.addresses import connect
    from nbsight.remote.attached import jobs
    from nbsight.results.ablation import Ablation
    from nbsight.results.alignment import Alignment, align
    from nbsight.results.attention import AttentionDifference
    from nbsight.results.attribution import AttributionCheck, AttributionPatching
    from nbsight.results.base import load_result
    from nbsight.results.component_lens import ComponentLens
    from nbsight.results.direct import DirectAttribution
    from nbsight.results.generation import Generated, GeneratedToken, Generations
    from nbsight.results.generation_pair import GenerationPair
    from nbsight.results.heads import HeadScores
    from nbsight.results.lens import Lens
    from nbsight.results.norms import Norms
    from nbsight.results.patching import Patching
    from nbsight.results.run_difference import RunDifference
    from nbsight.results.scores import Divergence, Entropy, LogProbs
    from nbsight.results.sizes import MemoryEstimate, Placement
    from nbsight.results.tokens import TokenBatch, Tokens
    from nbsight.results.verification import Verification
    from nbsight.widgets.inspector import InspectorWidget
    from nbsight.widgets.lens import LensWidget
    from nbsight.widgets.norms import NormsWidget
    from nbsight.widgets.patching import PatchingWidget
    from nbsight.widgets.stepper import StepperWidget

__version__ = "0.1.0"

__all__ = [
    "CONFIG",
    "Ablation",
    "AblationSweep",
    "Alignment",
    "AttentionDifference",
    "AttributionCheck",
    "AttributionPatching",
    "Collection",
    "ComponentLens",
    "DiffusionModel",
    "DirectAttribution",
    "Divergence",
    "EditWarning",
    "Entropy",
    "Envoy",
    "Generated",
    "GeneratedToken",
    "GenerationPair",
    "Generations",
    "HeadScores",
    "InspectorWidget",
    "LanguageModel",
    "Lens",
    "LensWidget",
    "LogProbs",
    "MemoryEstimate",
    "MemoryNotice",
    "NNsight",
    "NNsightDeprecationWarning",
    "NbsightError",
    "NbsightWarning",
    "Norms",
    "NormsWidget",
    "NotEnoughMemoryError",
    "NotFiniteError",
    "Object",
    "OrderNotice",
    "OutOfOrderError",
    "Patching",
    "PatchingSweep",
    "PatchingWidget",
    "Placement",
    "Receipt",
    "Receipts",
    "Recipe",
    "RemoteError",
    "RunDifference",
    "SourceNotAvailable",
    "SparseAutoencoder",
    "Steering",
    "StepperWidget",
    "StorageError",
    "Stream",
    "TokenBatch",
    "Tokens",
    "TransformersModel",
    "UnknownArchitectureError",
    "Verification",
    "VisionLanguageModel",
    "ablation",
    "activation_patching",
    "align",
    "attention_difference",
    "attribution_patching",
    "backward",
    "collect",
    "compare_generations",
    "compare_runs",
    "component_lens",
    "connect",
    "direct_attribution",
    "entropy",
    "estimate_memory",
    "head_scores",
    "jobs",
    "kl",
    "kl_divergence",
    "load_ipython_extension",
    "load_result",
    "load_sae",
    "log_probability",
    "log_probs",
    "logit_difference",
    "logit_lens",
    "perplexity",
    "probability",
    "save",
    "stack_steps",
    "stream_norms",
    "unload_ipython_extension",
    "verify",
    "wrap",
]

# Where each public name lives. They are imported on first use, so that `import nbsight` costs
# milliseconds and works where torch is not wanted (the notebook front end asks for the version).
_HOMES = {
    "CONFIG": "nbsight.compat:CONFIG",
    "Ablation": "nbsight.results.ablation:Ablation",
    "AblationSweep": "nbsight.analysis.ablation:AblationSweep",
    "Alignment": "nbsight.results.alignment:Alignment",
    "AttentionDifference": "nbsight.results.attention:AttentionDifference",
    "AttributionCheck": "nbsight.results.attribution:AttributionCheck",
    "AttributionPatching": "nbsight.results.attribution:AttributionPatching",
    "Collection": "nbsight.analysis.collection:Collection",
    "ComponentLens": "nbsight.results.component_lens:ComponentLens",
    "DiffusionModel": "nbsight.models.diffusion_model:DiffusionModel",
    "DirectAttribution": "nbsight.results.direct:DirectAttribution",
    "Divergence": "nbsight.results.scores:Divergence",
    "EditWarning": "nbsight.errors:EditWarning",
    "Entropy": "nbsight.results.scores:Entropy",
    "Envoy": "nbsight.core.envoy:Envoy",
    "Generated": "nbsight.results.generation:Generated",
    "GeneratedToken": "nbsight.results.generation:GeneratedToken",
    "GenerationPair": "nbsight.results.generation_pair:GenerationPair",
    "Generations": "nbsight.results.generation:Generations",
    "HeadScores": "nbsight.results.heads:HeadScores",
    "InspectorWidget": "nbsight.widgets.inspector:InspectorWidget",
    "LanguageModel": "nbsight.models.language_model:LanguageModel",
    "Lens": "nbsight.results.lens:Lens",
    "LensWidget": "nbsight.widgets.lens:LensWidget",
    "LogProbs": "nbsight.results.scores:LogProbs",
    "MemoryEstimate": "nbsight.results.sizes:MemoryEstimate",
    "MemoryNotice": "nbsight.errors:MemoryNotice",
    "NNsight": "nbsight.models.wrapped:NNsight",
    "NNsightDeprecationWarning": "nbsight.compat:NNsightDeprecationWarning",
    "NbsightError": "nbsight.errors:NbsightError",
    "NbsightWarning": "nbsight.errors:NbsightWarning",
    "Norms": "nbsight.results.norms:Norms",
    "NormsWidget": "nbsight.widgets.norms:NormsWidget",
    "NotEnoughMemoryError": "nbsight.errors:NotEnoughMemoryError",
    "NotFiniteError": "nbsight.errors:NotFiniteError",
    "Object": "nbsight.compat:Object",
    "OrderNotice": "nbsight.errors:OrderNotice",
    "OutOfOrderError": "nbsight.errors:OutOfOrderError",
    "Patching": "nbsight.results.patching:Patching",
    "PatchingSweep": "nbsight.analysis.patching:PatchingSweep",
    "PatchingWidget": "nbsight.widgets.patching:PatchingWidget",
    "Placement": "nbsight.results.sizes:Placement",
    "Receipt": "nbsight.core.receipts:Receipt",
    "Receipts": "nbsight.core.receipts:Receipts",
    "Recipe": "nbsight.analysis.recipes:Recipe",
    "RemoteError": "nbsight.errors:RemoteError",
    "RunDifference": "nbsight.results.run_difference:RunDifference",
    "SourceNotAvailable": "nbsight.errors:SourceNotAvailable",
    "SparseAutoencoder": "nbsight.analysis.sae:SparseAutoencoder",
    "Steering": "nbsight.models.steering:Steering",
    "StepperWidget": "nbsight.widgets.stepper:StepperWidget",
    "StorageError": "nbsight.errors:StorageError",
    "Stream": "nbsight.models.writing:Stream",
    "TokenBatch": "nbsight.results.tokens:TokenBatch",
    "Tokens": "nbsight.results.tokens:Tokens",
    "TransformersModel": "nbsight.models.transformers_model:TransformersModel",
    "UnknownArchitectureError": "nbsight.errors:UnknownArchitectureError",
    "Verification": "nbsight.results.verification:Verification",
    "VisionLanguageModel": "nbsight.models.vision_language_model:VisionLanguageModel",
    "ablation": "nbsight.analysis.ablation:ablation",
    "activation_patching": "nbsight.analysis.patching:activation_patching",
    "align": "nbsight.results.alignment:align",
    "attention_difference": "nbsight.models.attention_difference:attention_difference",
    "attribution_patching": "nbsight.analysis.attribution:attribution_patching",
    "backward": "nbsight.core.backward:backward",
    "collect": "nbsight.analysis.collecting:collect",
    "compare_generations": "nbsight.analysis.generation_pair:compare_generations",
    "compare_runs": "nbsight.analysis.run_difference:compare_runs",
    "component_lens": "nbsight.analysis.component_lens:component_lens",
    "connect": "nbsight.remote.addresses:connect",
    "direct_attribution": "nbsight.analysis.direct:direct_attribution",
    "entropy": "nbsight.analysis.distributions:entropy",
    "estimate_memory": "nbsight.models.sizing:estimate_memory",
    "head_scores": "nbsight.analysis.heads:head_scores",
    "jobs": "nbsight.remote.attached:jobs",
    "kl": "nbsight.analysis.distributions:kl",
    "kl_divergence": "nbsight.analysis.metrics:kl_divergence",
    "load_ipython_extension": "nbsight.notebook.extension:load_ipython_extension",
    "load_result": "nbsight.results.base:load_result",
    "load_sae": "nbsight.analysis.sae_files:load_sae",
    "log_probability": "nbsight.analysis.metrics:log_probability",
    "log_probs": "nbsight.analysis.distributions:log_probs",
    "logit_difference": "nbsight.analysis.metrics:logit_difference",
    "logit_lens": "nbsight.analysis.lens:logit_lens",
    "perplexity": "nbsight.analysis.distributions:perplexity",
    "probability": "nbsight.analysis.metrics:probability",
    "save": "nbsight.core.saving:save",
    "stack_steps": "nbsight.core.stacking:stack_steps",
    "stream_norms": "nbsight.analysis.norms:stream_norms",
    "unload_ipython_extension": "nbsight.notebook.extension:unload_ipython_extension",
    "verify": "nbsight.models.standard:verify",
    "widgets": "nbsight.widgets",
    "wrap": "nbsight.models.wrapped:wrap",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(
            f"module 'nbsight' has no attribute {name!r}; its public names are {', '.join(__all__)}"
        )
    module, _, attribute = home.partition(":")
    value = importlib.import_module(module)
    value = getattr(value, attribute) if attribute else value
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    return [{"src": "labextension", "dest": "nbsight"}]
