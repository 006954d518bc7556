"""Score a checkpoint, grade stored responses again, or compare two runs.

python evaluate.py model=MODEL                        a hub id, a folder, a LoRA adapter, or a cell with all its steps
python evaluate.py regrade=IN.jsonl output=OUT.jsonl  grade stored responses again, without a model
python evaluate.py compare=CELL,CELL                  how much better the second is, problem by problem

With model=, also:
  eval=paper          the protocol: paper (16 samples), greedy, or quick; eval.samples=4 and so on change it
  'benchmark=[math500,aime24]'                        what to score on
  eval.data=FOLDER    FOLDER/<benchmark>.jsonl in place of the hub
  machine.engine=     vllm or transformers; as many GPUs as there are, machine.tensor_parallel=2 for large models
  model.eval_prompt=, model.stop=                     for a model whose chat template is not the prompt you want
  and all others of `python train.py --help` that have to do with scoring.
With compare=, also:
  verdict=corrected   in place of official, the verdict of the published tables

python evaluate.py model=Qwen/Qwen2.5-Math-1.5B eval=greedy
Scores and samples to read are written beside the cell's record: results/cells/<cell>/scores.
"""

if __name__ == "__main__":  # the imports too: every worker process reads this file
    import os
    import sys
    from pathlib import Path

    if not sys.flags.safe_path:  # this folder last: its evaluate.py is not the library of that name
        sys.path.append(sys.path.pop(0))
    from losslab.commands.cli import arguments
    from losslab.config.errors import exit_on_error

    options = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
    with exit_on_error(RuntimeError):
        if "regrade" in options:
            _, options = arguments(__doc__, ["regrade", "output"])
            if "output" not in options:
                raise ValueError("regrading takes two options: regrade=FILE.jsonl output=OUT.jsonl")
            from losslab.grading.graders import regrade

            regrade(Path(options["regrade"]), Path(options["output"]), os.cpu_count() or 1)
        elif "compare" in options:
            _, options = arguments(__doc__, ["compare", "verdict"])
            runs = options["compare"].split(",")
            if len(runs) != 2:
                raise ValueError("a comparison takes two runs: compare=A,B")
            from losslab.results.compare import compare

            print(compare((runs[0], runs[1]), options.get("verdict")))
        elif {"-sc", "--shell-completion"} & set(sys.argv):
            from losslab.composition.compose import entry

            entry("losslab.cells.run.run")
        elif any(key.split(".")[0] in ("model", "experiment") for key in options):
            from losslab.cells.scoring import find, score_again
            from losslab.composition.compose import entry

            if find(options.get("model", "")):
                score_again(options["model"], [a for a in sys.argv[1:] if not a.startswith("model=")])
            else:
                entry("losslab.cells.run.run", "loss=base")
        else:
            from losslab.config.messages import did_you_mean

            names, options = arguments(__doc__, list(options))
            meant = [did_you_mean(key, ("model", "regrade", "compare", "experiment")) for key in [*names, *options]]
            raise ValueError(f"no model is named: add model=<hub id or folder>{''.join(meant)}")
