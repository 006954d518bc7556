"""Train and score a cell, or a sweep of cells, and add it to the ablation table.

  losslab train loss=dft plan=true                   what it would do and need; loads nothing
  losslab train -m loss=dft,sft seed=1,2,3           a sweep, -m: a cell for every combination
  losslab train experiment=demo                      a sweep that is written down, on the CPU in minutes
  losslab train -m hydra/launcher=slurm ...          its cells as jobs of a cluster (or hydra/launcher=local)

`python train.py` is the same. Choose a file of a group as in loss=dft; these are in conf/, and each says what it is:

{groups}

experiment is a whole sweep in a file; method is a row of a table that is more than an objective; optimizer,
scheduler, adapter (LoRA) and train say how it learns; machine says where it runs and changes no result; tracker is
where it is shown (results/cells has everything anyway).

The ten options that matter:

  loss=dft                   the objective; conf/loss/<yours>.yaml adds one
  model=NAME                 a name above, a hub id, or the folder of a checkpoint
  dataset=NAME               a name above; or dataset=file dataset.path=rows.jsonl
  'benchmark=[a,b]'          what to score on; eval.data=FOLDER reads local files
  eval=paper                 16 samples at temperature 1; quick for a look
  seed=1,2,3                 several seeds (with -m) make intervals over seeds
  optimizer.lr=5e-5          an objective may want another one than SFT
  train.batch_size=256       sequences of an optimizer step; train.epochs=1, train.max_length=2048
  machine.micro_batch_tokens=auto    lower it when memory runs out; changes no result
  sweep.name=ablation        the table that cells are added to, results/tables/<name>

plan=true shows what would run; force=true runs finished cells again; stage=train or score does one half. Every key
is in docs/configuration.md; `losslab train --cfg job` prints what your command composes to.

Completion of names and values by Tab in bash:
  eval "$(losslab -sc install=bash)"
  eval "$(python train.py -sc install=bash)"
"""

from losslab.composition.compose import entry


def main(arguments: list[str]) -> None:
    entry("losslab.cells.sweep.run", arguments)
