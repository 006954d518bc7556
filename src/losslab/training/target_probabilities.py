"""Probabilities of the training targets before and after training: the numbers of the paper's Figure 2.

A cell's base and its trained model are measured alike, by the workers and the fused loss of training, on the same
examples. The result for a checkpoint is cached, so that a sweep measures each base once.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from transformers import PreTrainedTokenizerBase

from losslab.config.schema import Config, ModelConfig
from losslab.data.examples import Examples, prepare
from losslab.data.probability_bins import EDGES
from losslab.data.tokenise import Tokeniser
from losslab.distributed.launch import launch_without
from losslab.distributed.process_group import decide_on_main
from losslab.files.content import content
from losslab.files.json_files import read_json, write_json
from losslab.models.loading import load_tokenizer
from losslab.models.processors import image_inputs
from losslab.training.inference import frozen
from losslab.training.loop import start_inference
from losslab.training.target_text import text

FREQUENT = 20  # tokens listed for each end bin
SEED = 0  # of the choice of examples, the same for all cells, so that they can be compared


def of(config: Config, base: ModelConfig, model: ModelConfig) -> dict[str, Any]:
    """Histogram of a model's probabilities of the answer tokens in `machine.probabilities` training examples of a cell.

    {edges, counts, tokens, lowest, highest}: `counts[i]` of the tokens lie in [edges[i], edges[i + 1]), where the last
    bin is closed; `lowest` and `highest` are the most frequent tokens of the two end bins, as [text, count]. The
    tokenizer of `base` is used. Called by every process of a cell.
    """
    data = examples_of_base(config, base)
    asked = config.machine.probabilities
    about = (content(model.path), model.revision, Path(data).name, str(config.train.precision), asked)
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    file = Path(config.machine.results) / "cache/probabilities" / f"{key}.json"
    launch_without(file, measure, frozen(config, model), data, str(file), machine=config.machine)
    return read_json(file)


def examples_of_base(config: Config, base: ModelConfig) -> str:
    """The folder of a cell's training examples for its base, made if need be. Called by every process of a cell."""

    def examples() -> str:
        model = replace(base, train_prompt=config.train_prompt)
        tokeniser = Tokeniser(model, config.dataset, load_tokenizer(base), image_inputs(base))
        return str(prepare(tokeniser, config.train, Path(config.machine.results) / "cache"))

    return decide_on_main(config.machine, examples)


def measure(config: Config, data: str, file: str) -> None:
    """Measure `config.model` on this rank, one of many; rank 0 writes `file`."""
    inference, examples = start_inference(config, data)
    assert config.machine.probabilities is not None
    chosen = sample(examples, config.machine.probabilities)
    logp = inference.answer_logp(examples, chosen, "probabilities of the targets")
    if dist.get_rank() == 0:
        write_json(Path(file), summary(logp, examples.targets(chosen), load_tokenizer(config.model)))
    dist.barrier()


def sample(examples: Examples, count: int) -> np.ndarray:
    """Indices of up to `count` examples, ascending; only the chosen answers of pairs."""
    units = len(examples) // examples.unit
    drawn = np.random.default_rng(SEED).permutation(units)[:count]
    return np.sort(drawn) * examples.unit


def summary(logp: np.ndarray, tokens: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What `of` returns, from the log-probability (N,) and the id (N,) of each token."""
    p = np.exp(logp.astype(np.float64))
    counts, _ = np.histogram(p, EDGES)
    ends = {"lowest": tokens[p < EDGES[1]], "highest": tokens[p >= EDGES[-2]]}
    frequent = {name: _frequent(ids, tokenizer) for name, ids in ends.items()}
    return {"edges": list(EDGES), "counts": counts.tolist(), "tokens": len(tokens)} | frequent


def _frequent(ids: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, int]]:
    distinct, counts = np.unique(ids, return_counts=True)
    order = np.lexsort((distinct, -counts))[:FREQUENT]
    return [(text(int(distinct[i]), tokenizer), int(counts[i])) for i in order]
