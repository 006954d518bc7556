"""How probable a base finds demonstrations, before any training, and which objectives won on similar ones.

losslab probe model=qwen2.5-math-1.5b dataset=numinamath_cot
losslab probe model=FOLDER dataset=file dataset.path=rows.jsonl
  machine.probabilities=1000       demonstrations that are measured, in one forward pass
  '+dataset.keep={source: amc}'    those of one source alone, where the rows have such a column

Prints the mean probability of the answer tokens, the shares below 0.1 and above 0.9, the entropy and the probability of
the token that ends an answer, with intervals; then what the nearest records of this results folder say of each
objective against SFT, how often such a placement was right, and published anchors. It abstains where records disagree.
"""

from losslab.composition.compose import entry


def main(arguments: list[str]) -> None:
    entry("losslab.cells.probe.run", ["~hydra.callbacks.sweep", *arguments])
