"""Parts of a step on one GPU, in the shape of Qwen2.5-Math-1.5B: attention, optimizer, gradients. Section of gpu.py."""

import time
from collections.abc import Callable
from dataclasses import replace
from unittest.mock import patch

import torch
from gpu_report import say
from gpu_steps import DEVICE, WITHOUT, architecture, batch, sequences, shape
from torch import nn
from transformers import AutoModelForCausalLM

from losslab.data.packing import Packing
from losslab.models import flash_attention_4
from losslab.models.attention import packed_attention
from losslab.training.optimizer import Gradients, Sums

TURNS = 30


def milliseconds(run: Callable[[], object]) -> float:
    """The median of some turns, after three of warm-up."""
    taken = []
    for turn in range(3 + TURNS):
        if DEVICE == "cuda":
            begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begun.record()
            run()
            ended.record()
            ended.synchronize()
            taken.append(begun.elapsed_time(ended))
        else:
            began = time.perf_counter()
            run()
            taken.append(1e3 * (time.perf_counter() - began))
        if turn == 2:
            taken.clear()
    return sorted(taken)[TURNS // 2]


def parts(tiny: bool) -> None:
    """Attention of a layer, forward and backward, of the sequences of a step; and what follows the last backward."""
    sizes = shape(tiny)
    lengths = [len(ids) for ids, _ in sequences(tiny)[: batch(tiny)]]
    packing = Packing.of(lengths)
    packing = replace(packing, boundaries=packing.boundaries.to(DEVICE))
    width = sizes["hidden_size"] // sizes["num_attention_heads"]
    heads = (sizes["num_attention_heads"], sizes["num_key_value_heads"], sizes["num_key_value_heads"])
    rows = [torch.randn(1, sum(lengths), n, width, device=DEVICE, dtype=torch.bfloat16) for n in heads]
    query, key, value = inputs = [x.transpose(1, 2).requires_grad_() for x in rows]

    def attend() -> None:
        out = packed_attention(nn.Module(), query, key, value, None, packing)[0]
        torch.autograd.grad(out, inputs, torch.ones_like(out))

    title = f"attention of {sum(lengths):,} tokens"
    if flash_attention_4.usable():
        say(section="parts", name=f"{title}, flash-attn-4", ms=milliseconds(attend))
    with patch.dict(flash_attention_4._loaded, {flash_attention_4.PACKAGE: None}):
        say(section="parts", name=f"{title}, {WITHOUT}", ms=milliseconds(attend))

    with torch.device(DEVICE):
        model = AutoModelForCausalLM.from_config(architecture(sizes), dtype=torch.float32)
    parameters = list(model.parameters())
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True)
    copies = [torch.empty_like(parameter, dtype=torch.bfloat16) for parameter in parameters]
    masters = [parameter.data for parameter in parameters]
    gradients, one = Gradients(model, Sums(model)), torch.ones((), device=DEVICE)
    runs: dict[str, Callable[[], object]] = {
        "AdamW, fused": optimizer.step,
        "norm of the gradients": gradients.norm,
        "clipping": lambda: gradients.scale(one),
        "copies in bfloat16": lambda: torch._foreach_copy_(copies, masters),
    }
    for name, run in runs.items():
        say(section="parts", name=name, ms=milliseconds(run))
