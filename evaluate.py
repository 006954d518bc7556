"""Score any checkpoint, grade stored responses again, or compare two runs.

python evaluate.py model=<hub id, folder, LoRA adapter, or a cell for all its steps>
python evaluate.py regrade=responses.jsonl output=graded.jsonl
python evaluate.py compare=<cell A>,<cell B> [verdict=corrected]
"""

if __name__ == "__main__":  # the imports too: every worker process reads this file
    import os
    import sys
    from pathlib import Path

    if not sys.flags.safe_path:  # this folder last: its evaluate.py is not the library of that name
        sys.path.append(sys.path.pop(0))
    arguments = sys.argv[1:]
    options = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    try:
        if "regrade" in options:
            from losslab.evaluation.grading import regrade

            if set(options) != {"regrade", "output"}:
                raise ValueError("regrading takes two options: regrade=FILE.jsonl output=OUT.jsonl")
            regrade(Path(options["regrade"]), Path(options["output"]), os.cpu_count() or 1)
        elif "compare" in options:
            from losslab.evaluation.compare import compare

            runs = options["compare"].split(",")
            if len(runs) != 2 or not set(options) <= {"compare", "verdict"}:
                raise ValueError(
                    "a comparison takes two runs, and a verdict if you like: compare=A,B verdict=corrected"
                )
            print(compare((runs[0], runs[1]), options.get("verdict")))
        elif any(key.split(".")[0] in ("model", "experiment") for key in options):
            from losslab.cell import run
            from losslab.compose import entry
            from losslab.scoring import find, score_again

            if find(options.get("model", "")):
                score_again(options["model"], [a for a in arguments if not a.startswith("model=")])
            else:
                entry(run, "loss=base")
        else:
            raise ValueError("no model is named: add model=<hub id or folder>")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(1)
