"""The KL divergence of a trained model from its base, on the trained model's own sampled answers.

An answer y to a prompt x that the trained model p sampled at temperature 1 gives log p(y|x) - log q(y|x), q being the
base: its mean over answers estimates KL(p || q) per answer, and the mean over all tokens of answers per token. Both
models are measured alike, by the workers and the fused loss of training. *RL's Razor* (arXiv 2509.04259) finds that
the KL between a model and its base on the new task predicts what the model forgets.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

from losslab.config.schema import Config, ModelConfig
from losslab.data.examples import Examples
from losslab.distributed.launch import launch_without
from losslab.distributed.process_group import release_memory
from losslab.files.json_files import read_json, write_json
from losslab.models.policy import build
from losslab.statistics.intervals import over_clusters
from losslab.training.inference import Inference, frozen
from losslab.training.loop import start
from losslab.training.packing_check import run_exactly


def of(config: Config, base: ModelConfig, trained: ModelConfig, data: str) -> list[float]:
    """log p - log q in nats of each answer in `data`, a folder of `Examples`, in which the result is kept.

    Called by every process of a cell.
    """
    file = Path(data) / "log_ratios.json"
    launch_without(file, measure, config, base, trained, data, machine=config.machine)
    return read_json(file)["log_ratios"]


def measure(config: Config, base: ModelConfig, trained: ModelConfig, data: str) -> None:
    """Measure both models on this rank, one of many, one after the other; rank 0 writes the file of `of`."""
    device, examples = start(config), Examples.load(Path(data))
    logps = []
    for model in (base, trained):
        policy = build(frozen(config, model), device, reference=False)
        run_exactly(policy, examples, device)
        inference, title = Inference.of(policy, device, config.machine), "log-probabilities of answers"
        logps.append(inference.answer_logp(examples, np.arange(len(examples)), title))
        del policy, inference
        release_memory()
    of_base, of_trained = (logp.astype(np.float64) for logp in logps)
    ratios = np.add.reduceat(of_trained - of_base, examples.answer_offsets[:-1])
    if dist.get_rank() == 0:
        write_json(Path(data) / "log_ratios.json", {"log_ratios": ratios.tolist()})
    dist.barrier()


def summary(ratios: Sequence[float], tokens: np.ndarray, problems: Sequence[int]) -> dict[str, Any]:
    """{answers, problems, tokens, per_token, per_answer}, the last two in nats as [mean, half of its 95% interval].

    Args:
        ratios: (answers,) log p - log q of each.
        tokens: (answers,) how many each has.
        problems: (answers,) a number of the problem that each answers.

    Intervals are over problems, since answers to one problem are alike; half is None where there is one problem.
    """
    _, cluster = np.unique(problems, return_inverse=True)
    weights = np.array([ratios, tokens, np.ones(len(ratios))], dtype=np.float64)
    sums, counts, answers = (np.bincount(cluster, row).astype(np.float64) for row in weights)
    per_token, per_answer = over_clusters(sums, counts), over_clusters(sums, answers)
    return {
        "answers": len(ratios),
        "problems": len(sums),
        "tokens": int(counts.sum()),
        "per_token": [per_token.mean, per_token.half],
        "per_answer": [per_answer.mean, per_answer.half],
    }
