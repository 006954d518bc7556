"""What the same `losslab train` would do and need; loads nothing, but for check=true.

losslab plan loss=dft model=qwen2.5-math-1.5b       `losslab train --help` lists what can be chosen
losslab plan loss=dft model=FOLDER check=true       also whether each model is trained exactly on its data, and how
losslab plan experiment=table1 hydra/launcher=slurm hydra.launcher.gpus_per_node=8
"""

from losslab.commands import train


def main(arguments: list[str]) -> None:
    train.main([*arguments, "plan=true"])
