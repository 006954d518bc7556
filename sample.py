"""Let a model answer the questions of a data set, and keep its answers with their verdicts as data sets to train on.

python sample.py model=MODEL dataset=DATASET    a name of conf/, or a hub id or folder; dataset=file dataset.path=FILE
  samples=4            answers to each question
  eval.temperature=1   and all others of `python train.py --help` that have to do with sampling

python sample.py model=qwen2.5-math-1.5b dataset=numinamath_cot
What it writes is in results/sampled/<model>-<dataset>; dataset=self_correct, self_pairs and self_graded read it.
"""

if __name__ == "__main__":  # the imports too: every worker process reads this file
    import sys

    if not sys.flags.safe_path:  # this folder last: its evaluate.py is not the library of that name
        sys.path.append(sys.path.pop(0))
    from losslab.commands.cli import helping
    from losslab.config.errors import exit_on_error

    with exit_on_error():
        helping(__doc__)
        from losslab.composition.compose import entry

        sys.argv[1:] = [
            f"eval.{argument}" if argument.startswith("samples=") else argument for argument in sys.argv[1:]
        ]
        entry("losslab.cells.sampling.sample", "loss=base", "eval=sampling", "~hydra.callbacks.sweep")
