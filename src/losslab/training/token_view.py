"""A few examples token by token, before and after training: each token's probability and weight under the objective.

Written to a cell's tokens.json, for `losslab data CELL` and the report. An objective that reads statistics of a batch
gets those of the shown examples.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from transformers import PreTrainedTokenizerBase

from losslab.config.schema import Config
from losslab.data.examples import Examples
from losslab.files.json_files import read_json, write_json
from losslab.files.record_names import RECORD_VERSION, TOKENS
from losslab.objectives import Objective
from losslab.training.inference import Inference
from losslab.training.passes import InOrder, loader, outputs
from losslab.training.reference_logps import Reference
from losslab.training.target_text import text

SHOWN = 3  # rows, spread over the data set
DIGITS = 4


class TokenView:
    """The shown examples of a cell. `measure` is called on every rank."""

    def __init__(
        self,
        config: Config,
        inference: Inference,
        examples: Examples,
        reference: Reference,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        assert isinstance(config.objective, Objective)
        self.inference, self.objective, self.examples = inference, config.objective, examples
        self.file, self.tokenizer = folder / TOKENS, tokenizer
        units, shown = len(examples) // examples.unit, min(SHOWN, len(examples) // examples.unit)
        self.units = np.arange(shown) * units // shown
        self.config, self.reference = config, reference

    def measure(self, when: str) -> None:
        """Record the current probabilities and weights under `when`: `before` or `after` training."""
        chosen = self.examples.expand(self.units)
        counts = self.examples.answers[chosen]
        starts = dict(zip(chosen.tolist(), np.r_[0, counts.cumsum()].tolist(), strict=False))
        device, all_at_once = self.inference.device, InOrder(self.units, len(self.units))
        values = torch.zeros(2, int(counts.sum()), device=device)
        with loader(self.config, self.examples, all_at_once, self.reference, device) as data:
            for micro, out in outputs(self.inference, self.objective, data.take(0)):
                ranges = [np.arange(starts[i], starts[i] + self.examples.answers[i]) for i in micro.examples.tolist()]
                places = torch.from_numpy(np.concatenate(ranges or [np.zeros(0, np.int64)])).to(device)
                values.index_copy_(1, places, torch.stack([out["logp"].exp(), out["weight"]]).float())
        dist.all_reduce(values)
        if dist.get_rank() == 0:
            parts = [
                part.tolist() for part in np.split(values.double().cpu().numpy().round(DIGITS), counts.cumsum()[:-1], 1)
            ]
            self._write(chosen, [{"p": p, "weight": weight} for p, weight in parts], when)

    def _write(self, chosen: np.ndarray, measured: list[dict[str, list[float]]], when: str) -> None:
        earlier = (
            read_json(self.file).get("examples", [{} for _ in chosen]) if when == "after" else [{} for _ in chosen]
        )
        shown: list[dict[str, Any]] = []
        for i, numbers, before in zip(chosen.tolist(), measured, earlier, strict=True):
            ids = self.examples.tokens[self.examples.offsets[i] : self.examples.offsets[i + 1]]
            about = {"number": i + 1, "tokens": [text(int(token), self.tokenizer) for token in ids]}
            about["trained"] = self.examples.is_trained(i).astype(int).tolist()
            shown.append(before | about | {when: numbers})
        write_json(self.file, {"version": RECORD_VERSION, "of": len(self.examples), "examples": shown})
