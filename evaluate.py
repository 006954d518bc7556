"""Score any checkpoint: `python evaluate.py model=<hub id or folder>`."""

if __name__ == "__main__":  # the imports too: every worker process reads this file
    import sys

    sys.path.append(sys.path.pop(0))  # this folder last: its tabulate.py and evaluate.py are not the libraries' ones
    from losslab.cell import run
    from losslab.compose import entry

    entry(run, "loss=base")
