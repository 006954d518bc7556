"""Train and score a cell, or a sweep of cells, and add it to the ablation table.

python train.py -m loss=dft,sft model=qwen2.5-math-1.5b
"""

if __name__ == "__main__":  # the imports too: every worker process reads this file
    import sys

    if not sys.flags.safe_path:  # this folder last: its evaluate.py is not the library of that name
        sys.path.append(sys.path.pop(0))
    from losslab.config.errors import exit_on_error

    with exit_on_error():
        from losslab.composition.compose import entry

        entry("losslab.cells.run.run")
