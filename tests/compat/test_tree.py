"""Programs in nnsight's style: names, the envoy tree, `rename=` and `envoys=`."""

# These programs are written as nnsight's users write them.

from __future__ import annotations

import pytest
import torch
from torch import nn

import nbsight as nnsight
from tests.compat import models
from tests.compat.models import PROMPT, ids_of, noise
from tests.core.small import hooked, rows, same

X = rows(2)


@pytest.mark.parametrize(
    "name",
    [
        "NNsight", "LanguageModel", "VisionLanguageModel", "TransformersModel", "DiffusionModel", "Envoy",
        "save", "CONFIG", "OutOfOrderError", "SourceNotAvailable", "Object", "NNsightDeprecationWarning",
    ],
)  # fmt: skip
def test_a_public_name_of_nnsight_is_found(name):
    assert getattr(nnsight, name) is not None
    assert name in nnsight.__all__


def test_settings_at_the_top_of_a_notebook_are_taken():
    before = nnsight.CONFIG.API.APIKEY
    nnsight.CONFIG.set_default_api_key("a key")
    assert nnsight.CONFIG.API.APIKEY == "a key"
    assert "a key" not in repr(nnsight.CONFIG)
    nnsight.CONFIG.API.APIKEY = before


def test_envoys_stand_where_modules_stand(chain):
    assert chain.h[1].lin.path == "model.h.1.lin"
    assert chain.h[1].lin._module is chain._module.h[1].lin
    assert chain.get("h.1.lin") is chain.h[1].lin
    assert chain.h[-1] is chain.h[3]
    assert chain.h[1:3] == [chain.h[1], chain.h[2]]
    assert len(chain.h) == 4
    assert [block.path for block in chain.h] == [f"model.h.{i}" for i in range(4)]
    assert bool(chain.h[0])


def test_modules_are_listed_with_a_filter(chain):
    linear = chain.modules(lambda envoy: isinstance(envoy._module, nn.Linear))
    assert [envoy.path for envoy in linear] == [f"model.h.{i}.lin" for i in range(4)] + ["model.head"]
    paths = [path for path, _ in chain.named_modules()]
    assert paths == [path for path, _ in chain._module.named_modules()]


def test_an_envoy_knows_its_place(chain):
    lin = chain.h[1].lin
    assert lin.parent is chain.h[1]
    assert lin.root is chain
    assert chain.parent is None
    assert chain["h"] is chain.h
    assert ("h.1.lin", lin) in chain.modules(names=True)
    assert chain.modules(include_fn=lambda envoy: envoy.path.endswith("head")) == [chain.head]
    assert lin.devices == {torch.device("cpu")}


def test_a_path_leads_to_a_value_inside_a_trace(chain):
    with chain.trace(X):
        hidden = chain.get("h.2.lin.output").save()
    assert torch.equal(hidden, hooked(chain._module, (X,))["h.2.lin.output"][0])


def test_what_the_module_has_is_found_through_the_envoy(model):
    assert model.config is model._model.config
    assert model.generation_config is model._model.generation_config
    assert model.transformer.h[0].ln_1.eps == model._model.transformer.h[0].ln_1.eps
    assert model.transformer.wte.weight is model._model.transformer.wte.weight
    assert model.device == torch.device("cpu")


def test_a_wrong_name_says_what_is_there(chain):
    with pytest.raises(AttributeError, match="head"):
        chain.haed
    with pytest.raises(LookupError, match="4 entries"):
        chain.h[9]


def test_a_module_with_two_paths_has_one_envoy():
    odd = nnsight.NNsight(models.seeded(models.Odd))
    assert odd.again[0] is odd.cell
    assert odd.again[0].path == "model.cell"


def test_an_attached_module_is_real_and_can_be_traced(chain):
    torch.manual_seed(1)
    chain.h[0].adapter = nn.Linear(6, 6)
    assert isinstance(chain._module.h[0].adapter, nn.Linear)
    with torch.no_grad(), chain.trace(X):
        hidden = chain.h[0].output
        chain.h[0].output = chain.h[0].adapter(hidden)
        out = chain.output.save()
    adapter = chain._module.h[0].adapter
    with torch.no_grad():
        wanted = hooked(chain._module, (X,), edit={"h.0": lambda value: adapter(value)})
    assert torch.equal(out, wanted[""][0])


def test_a_child_called_output_is_found_under_another_name():
    bert = nnsight.NNsight(models.seeded(models.Bert))
    x = noise(2, 4)
    with bert.trace(x):
        dense = bert.dense.output.save()
        projected = bert.E_output.output.save()
        whole = bert.output.save()
    wanted = hooked(bert._module, (x,))
    assert torch.equal(dense, wanted["dense.output"][0])
    assert torch.equal(projected, wanted["output.output"][0])
    assert torch.equal(whole, projected)


def test_the_tree_prints_as_torch_prints_it(chain):
    assert "(0-3): 4 x Block" in repr(chain)


# -- rename ----------------------------------------------------------------------------------------


def test_a_name_is_renamed_wherever_it_stands():
    chain = nnsight.NNsight(models.chain(), rename={"lin": "linear", "h": ["layers", "blocks"]})
    with chain.trace(X):
        first = chain.layers[0].linear.output.save()
        second = chain.blocks[1].lin.output.save()
    wanted = hooked(chain._module, (X,))
    assert torch.equal(first, wanted["h.0.lin.output"][0])
    assert torch.equal(second, wanted["h.1.lin.output"][0])


def test_a_path_is_renamed_at_the_root(model):
    again = nnsight.LanguageModel(
        model._model, tokenizer=model.tokenizer, rename={".transformer.h": "layers", "attn": "self_attn"}
    )
    with again.trace(PROMPT):
        inner = again.layers[2].self_attn.output[0].save()
        hidden = again.layers[2].output[0].save()
    wanted = hooked(model._model, (ids_of(model, PROMPT),))
    assert torch.equal(inner, wanted["transformer.h.2.attn.output"][0][0])
    assert torch.equal(hidden, models.first(wanted["transformer.h.2.output"][0]))


def test_a_star_and_a_class_rename_beside_each_module():
    chain = nnsight.NNsight(models.chain(), rename={"h.*.lin": "proj", nn.Tanh: "nonlinearity"})
    assert chain.h[3].proj is chain.h[3].lin
    assert chain.h[0].nonlinearity is chain.h[0].act
    assert not hasattr(chain, "proj")


def test_a_dotted_alias_holds_only_in_modules_of_that_name():
    peft = nnsight.NNsight(models.seeded(models.Peft), rename={"base_layer": "lin.original"})
    assert peft.base_model.model.h[0].lin.original is peft.base_model.model.h[0].lin.base_layer


def test_an_alias_that_hides_something_is_refused_at_once():
    with pytest.raises(ValueError, match="means something already"):
        nnsight.NNsight(models.chain(), rename={"h": "head"})
    with pytest.raises(ValueError, match="means something already"):
        nnsight.NNsight(models.chain(), rename={"lin": "output"})
    with pytest.raises(ValueError, match="to both"):
        nnsight.NNsight(models.chain(), rename={"lin": "part", "act": "part"})


def test_renaming_what_is_not_there_is_an_error_where_nnsight_says_nothing():
    with pytest.raises(AttributeError, match="no such module"):
        nnsight.NNsight(models.chain(), rename={"layers": "blocks"})


# -- envoys ----------------------------------------------------------------------------------------


class Halves(nnsight.Envoy):
    """An envoy with a value of its own: the two halves of the output."""

    @property
    def left(self):
        return self.output[..., :3]

    @left.setter
    def left(self, value):
        self.output[..., :3] = value


def test_a_class_for_some_modules_adds_its_own_values():
    chain = nnsight.NNsight(models.chain(), envoys={nn.Linear: Halves})
    with chain.trace(X):
        left = chain.h[1].lin.left.clone().save()
        chain.h[2].lin.left = 0
        out = chain.output.save()

    def silence(value):
        value[..., :3] = 0

    wanted = hooked(chain._module, (X,), edit={"h.2.lin": silence})
    assert torch.equal(left, wanted["h.1.lin.output"][0][..., :3])
    assert torch.equal(out, wanted[""][0])


def test_a_class_is_chosen_by_the_end_of_a_path_and_keeps_aliases():
    chain = nnsight.NNsight(models.chain(), rename={"lin": "linear"}, envoys={"h.*": Halves})
    assert isinstance(chain.h[2], Halves)
    assert not isinstance(chain.h[2].lin, Halves)
    assert chain.h[2].linear is chain.h[2].lin


def test_two_wrappers_of_one_module_see_the_same_run_each_their_own():
    module = models.chain()
    one, two = nnsight.NNsight(module), nnsight.NNsight(module)
    with one.trace(X):
        a = one.h[1].output.save()
    with two.trace(X * 2):
        b = two.h[1].output.save()
    assert same(a, hooked(module, (X,))["h.1.output"][0])
    assert same(b, hooked(module, (X * 2,))["h.1.output"][0])
