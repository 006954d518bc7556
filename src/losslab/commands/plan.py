"""Print what the same `losslab train` would do and need; loads no model, except with check=true.

losslab plan loss=dft model=qwen2.5-math-1.5b       `losslab train --help` lists the options
losslab plan loss=dft model=FOLDER check=true       also checks whether each model can be trained exactly on its data
losslab plan experiment=table1 hydra/launcher=slurm hydra.launcher.gpus_per_node=8
"""

from losslab.commands import train


def main(arguments: list[str]) -> None:
    train.main([*arguments, "plan=true"])
