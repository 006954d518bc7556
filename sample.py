"""Let a model answer the questions of a data set, and keep its answers with their verdicts as data sets to train on.

python sample.py model=<hub id, folder or name> dataset=<data set> [samples=4]
"""

if __name__ == "__main__":  # the imports too: every worker process reads this file
    import sys

    if not sys.flags.safe_path:  # this folder last: its evaluate.py is not the library of that name
        sys.path.append(sys.path.pop(0))
    from losslab.cli import told

    with told():
        from losslab.compose import entry

        given = sys.argv[1:]
        sys.argv[1:] = [f"eval.{argument}" if argument.startswith("samples=") else argument for argument in given]
        entry("losslab.sampling.sample", "loss=base", "eval=sampling", "~hydra.callbacks.sweep")
