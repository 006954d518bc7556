"""Let a model answer the questions of a data set, and keep its graded answers as data sets to train on.

losslab sample model=MODEL dataset=DATASET    names of conf/, a hub id or a folder; dataset=file dataset.path=FILE
  samples=4            answers to each question
  eval.temperature=1   and all others of `losslab train --help` that have to do with sampling

losslab sample model=qwen2.5-math-1.5b dataset=numinamath_cot
What it writes is in results/sampled/<model>-<dataset>; dataset=self_correct, self_pairs and self_graded read it.
"""

from losslab.composition.compose import entry


def main(arguments: list[str]) -> None:
    overrides = ["loss=base", "eval=sampling", "~hydra.callbacks.sweep"]
    overrides += [f"eval.{argument}" if argument.startswith("samples=") else argument for argument in arguments]
    entry("losslab.cells.sampling.sample", overrides)
