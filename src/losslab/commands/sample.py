"""Sample a model's answers to the questions of a data set, grade them, and write data sets to train on.

losslab sample model=MODEL dataset=DATASET    names of conf/, a hub id or a folder; dataset=file dataset.path=FILE
  samples=4            answers to each question
  eval.temperature=1   and every option of `losslab train --help` that concerns sampling

losslab sample model=qwen2.5-math-1.5b dataset=numinamath_cot
It writes to results/sampled/<model>-<dataset>, which dataset=self_correct, self_pairs and self_graded read.
"""

from losslab.composition.compose import entry
from losslab.composition.words import check_twice


def main(arguments: list[str]) -> None:
    given = [f"eval.{argument}" if argument.startswith("samples=") else argument for argument in arguments]
    check_twice(given, sweeps=False)
    entry("losslab.cells.sampling.sample", ["loss=base", "eval=sampling", "~hydra.callbacks.sweep", *given])
