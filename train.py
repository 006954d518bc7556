"""Train and score a cell, or a sweep of cells, and add it to the ablation table.

python train.py -m loss=dft,sft model=qwen2.5-math-1.5b
"""

import sys

from losslab.commands.cli import main

if __name__ == "__main__":  # worker processes import this file too
    main(["train", *sys.argv[1:]])
