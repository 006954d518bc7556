"""Train and score a cell, or a sweep of cells, and add it to the ablation table.

  losslab train loss=dft plan=true                   what it would do and need; loads no model
  losslab train -m loss=dft,sft seed=1,2,3           a sweep (-m): a cell for every combination
  losslab train experiment=demo                      a sweep from a file, on the CPU in minutes
  losslab train -m hydra/launcher=slurm ...          its cells as jobs of a cluster (or hydra/launcher=local)

`python train.py` is the same. GROUP=FILE, as in loss=dft, chooses a file of conf/; each file describes itself:

{groups}

experiment is a whole sweep in a file; method is an objective with other settings, one row of a table; optimizer,
scheduler, adapter (LoRA) and train define the training; machine says where it runs and changes no result; tracker
shows the run elsewhere (results/cells has everything in any case).

The ten most used options:
  loss=dft                   the objective; conf/loss/<name>.yaml adds one
  model=NAME                 a name above, a hub id, or the folder of a checkpoint
  dataset=NAME               a name above; or dataset=file dataset.path=rows.jsonl
  'benchmark=[a,b]'          what to score on; eval.data=FOLDER reads local files
  eval=paper                 16 samples at temperature 1; quick for a first impression
  seed=1,2,3                 several seeds (with -m) give intervals over seeds
  optimizer.lr=5e-5          the best rate depends on the objective
  train.batch_size=256       sequences of an optimizer step; train.epochs=1, train.max_length=2048
  machine.micro_batch_tokens=auto    lower it when memory runs out; changes no result
  sweep.name=ablation        the table that cells are added to, results/tables/<name>

plan=true shows what would run; force=true runs finished cells again; stage=train or score runs one half. Every key
is in docs/configuration.md; `losslab train --cfg job` prints the composed configuration of a command.

Tab completion of names and values in bash:
  eval "$(losslab -sc install=bash)"
  eval "$(python train.py -sc install=bash)"
"""

from losslab.composition.compose import entry


def main(arguments: list[str]) -> None:
    entry("losslab.cells.sweep.run", arguments)
