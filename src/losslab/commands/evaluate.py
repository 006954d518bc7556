"""Score a model: a hub id, a folder, a LoRA adapter, or a trained cell with its steps.

losslab evaluate model=MODEL
  eval=paper          the protocol: paper (16 samples), greedy, or quick; eval.samples=4 and so on change it
  'benchmark=[math500,aime24,lm_eval:ifeval]'         what to score on; lm_eval: is any task of lm-evaluation-harness
  eval.data=FOLDER    FOLDER/<benchmark>.jsonl instead of the hub
  machine.engine=     vllm or transformers, on all GPUs; machine.tensor_parallel=2 for large models
  machine.engine=api machine.api_url=http://localhost:8000/v1             a model behind an endpoint (OPENAI_API_KEY)
  prompt=             a file of conf/prompt instead of the model's own prompt: minerva_4shot, boxed, question
  model.eval_prompt=, model.stop=                     for a model whose chat template is not the prompt you want
  and every option of `losslab train --help` that concerns scoring.

losslab evaluate model=Qwen/Qwen2.5-Math-1.5B eval=greedy
Scores and samples are written to the cell's record: results/cells/<cell>/scores.
"""

from losslab.config.errors import exit_on_error


def main(arguments: list[str]) -> None:
    from losslab.composition.compose import entry
    from losslab.config.messages import did_you_mean

    with exit_on_error(RuntimeError):  # of an engine, whose sentence says enough
        options = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
        if not any(key.split(".")[0] in ("model", "experiment") for key in options):
            meant = [did_you_mean(argument.split("=")[0], ("model", "experiment")) for argument in arguments]
            raise ValueError(f"no model is given: add model=<hub id or folder>{''.join(meant)}")
        from losslab.cells.scoring import find, score_again

        if find(options.get("model", "")):
            score_again(options["model"], [argument for argument in arguments if not argument.startswith("model=")])
        else:
            if wrong := [word for word in arguments if word.startswith(("loss=", "loss.")) and word != "loss=base"]:
                raise ValueError(f"losslab evaluate trains nothing: leave {wrong[0]} out, or use losslab train")
            entry("losslab.cells.sweep.run", ["loss=base", *arguments])
