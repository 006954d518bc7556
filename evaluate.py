"""Score any checkpoint, or grade stored responses again.

python evaluate.py model=<hub id or folder>
python evaluate.py regrade=responses.jsonl output=graded.jsonl
"""

if __name__ == "__main__":  # the imports too: every worker process reads this file
    import os
    import sys
    from pathlib import Path

    if not sys.flags.safe_path:  # this folder last: its tabulate.py and evaluate.py are not the libraries' ones
        sys.path.append(sys.path.pop(0))
    options = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
    if "regrade" in options:
        from losslab.evaluation.grading import regrade

        try:
            if set(options) != {"regrade", "output"}:
                raise ValueError("regrading takes two options: regrade=FILE.jsonl output=OUT.jsonl")
            regrade(Path(options["regrade"]), Path(options["output"]), os.cpu_count() or 1)
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
    else:
        if not any(key.split(".")[0] in ("model", "experiment") for key in options):
            print("error: no model is named: add model=<hub id or folder>", file=sys.stderr)
            sys.exit(2)
        from losslab.cell import run
        from losslab.compose import entry

        entry(run, "loss=base")
