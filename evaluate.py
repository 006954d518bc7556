"""Score any checkpoint: `python evaluate.py model=<hub id or folder>`."""

if __name__ == "__main__":  # the imports too: every worker process reads this file
    from losslab.cell import run
    from losslab.compose import entry

    entry(run, "loss=base")
