"""What is measured without gradients before a step, by a tiny model in this process, beside its own full logits."""

import numpy as np
import pytest
import tiny_models
import torch
from torch import Tensor

from losslab.config.schema import AdapterConfig, Precision
from losslab.data.batches import collate
from losslab.data.examples import Examples
from losslab.data.loader import MicroBatch, StepBatch
from losslab.models import attention
from losslab.models.policy import Policy
from losslab.objectives.deft_cayley import CayleyDEFT
from losslab.objectives.sft import SFT
from losslab.training.reference_logps import batch_nll

CPU = torch.device("cpu")


@pytest.fixture
def policy() -> Policy:
    model = tiny_models.make("qwen2")
    model.set_attn_implementation(attention.NAME)
    return Policy(model, Precision.fp32, torch.float32, AdapterConfig()).eval()


def answer_logp(examples: Examples, i: int, family: str = "qwen2") -> Tensor:
    """(N,) log-probabilities of the answer tokens of an example, by the model's own forward over it alone."""
    model = tiny_models.make(family)
    ids = torch.from_numpy(examples.tokens[examples.offsets[i] : examples.offsets[i + 1]].astype(np.int64))
    logp = model(input_ids=ids[None]).logits[0, :-1].double().log_softmax(-1)
    return logp[range(len(ids) - 1), ids[1:]][int(examples.prompts[i]) - 1 :].detach()


def test_statistics_of_the_global_batch(policy, one_rank):
    examples = tiny_models.examples()
    groups = [np.array([3, 0]), np.array([4]), np.array([], dtype=np.int64)]
    micro = [MicroBatch(group, collate(examples, group), {}) for group in groups]
    statistics = batch_nll(CayleyDEFT(), policy, StepBatch(np.array([4, 0, 3]), micro, 99), CPU)
    logps = {i: answer_logp(examples, i) for i in (0, 3, 4)}
    context = statistics.context(micro[0])
    assert context["batch_p"].item() == pytest.approx(torch.cat(list(logps.values())).exp().mean().item(), rel=1e-5)
    assert context["batch_nll"].tolist() == pytest.approx([-logp.mean().item() for logp in logps.values()], rel=1e-5)
    assert context["sequence_nll"].tolist() == pytest.approx([-logps[i].mean().item() for i in (3, 0)], rel=1e-5)
    assert statistics.context(micro[2])["sequence_nll"].tolist() == [0]
    assert batch_nll(SFT(), policy, StepBatch(np.array([4]), micro, 99), CPU).context(micro[0]) == {}
