"""The output layer as a model computes it, learned from its forward."""

import pytest
import tiny_models
import torch
from torch import nn

from losslab.models.output_layer import OutputForm

FORMS = {
    "qwen2": OutputForm(),
    "phi": OutputForm(),  # with a bias
    "cohere": OutputForm(scale=0.0625, bias_scale=0.0625),
    "granite": OutputForm(scale=1 / 4, bias_scale=1 / 4),  # divides by logits_scaling = 4
    "hyperclovax": OutputForm(scale=0.25, bias_scale=0.25),  # multiplies by logits_scaling = 0.25
    "falcon_h1": OutputForm(scale=0.5, bias_scale=0.5),
    "minicpm3": OutputForm(scale=1 / 4, bias_scale=1 / 4),  # hidden_size / dim_model_base = 32 / 8
    "gemma2": OutputForm(softcap=3.0),
    "recurrent_gemma": OutputForm(softcap=3.0),
}


@pytest.mark.parametrize("family", FORMS)
def test_scale_and_cap_are_those_of_the_family(family):
    model = tiny_models.make(family)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert OutputForm.of(model) == FORMS[family]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert "forward" not in vars(model.base_model)


def test_the_head_gives_the_models_logits():
    for family in ("phi", "granite", "gemma2"):
        model = tiny_models.make(family)
        states = []
        model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs, kept=states: kept.append(inputs[0]))
        logits = model(torch.arange(3, 20)[None], use_cache=False).logits[0]
        form = OutputForm.of(model)
        head = form.head(model)
        assert (head.softcap, head.scale) == (form.softcap, form.scale)
        got = form.logits(states[0][0], head.weight, head.bias)
        torch.testing.assert_close(got, logits, rtol=1e-5, atol=1e-5)


class Shifted(nn.Linear):
    def forward(self, states):
        return super().forward(states).square()


def test_any_other_form_is_refused():
    model = tiny_models.make("qwen2")
    model.lm_head.__class__ = Shifted
    with pytest.raises(ValueError, match=r"^the output layer of Qwen2ForCausalLM cannot be reproduced"):
        OutputForm.of(model)
    with pytest.raises(ValueError, match="ModernBertDecoderForCausalLM cannot be reproduced"):
        OutputForm.of(tiny_models.make("modernbert-decoder"))
