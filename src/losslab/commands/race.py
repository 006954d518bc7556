"""Race objectives: all start on an eighth of the data, and those that are worse are not trained on more.

losslab race loss=sft,dft optimizer.lr=1e-5,5e-5,2e-4 seed=0,1,2 sweep.name=mine
losslab race ... plan=true             its rungs and what they cost, at most and if half is dropped; loads nothing
losslab race ... hydra/launcher=slurm  submits a rung and ends; the same command continues when its cells are done

The options are those of `losslab train`, and every combination, the seed aside, is a row. Rungs are an eighth, a
quarter, a half and all of the training rows, each with a complete schedule: ordinary sweeps, <name>/eighth and so on.
An objective is dropped, with all its rates, when the intervals of their paired differences to the leader are below 0;
these intervals are simultaneous for all rows and rungs. The base is scored too, and stands beside the rows. The same
command resumes where it was interrupted, and ends with a verdict and a page. docs/evaluation.md has the rule and how
often it is right.
"""

import sys

from rich.console import Console

from losslab.commands.cli import flag
from losslab.config.log import log, terminal_text


def main(arguments: list[str]) -> int:
    """Returns the exit status: 1 where a rung has cells without scores."""
    if wrong := [argument for argument in arguments if "=" not in argument and argument not in ("-m", "--multirun")]:
        raise ValueError(f"{wrong[0]} is not an option: options are written key=value, as in loss=sft,dft")
    keys = {argument.lstrip("+~").partition("=")[0] for argument in arguments}
    if refused := keys & {"force", "stage"}:
        raise ValueError(f"{min(refused)} is not for a race, which reads what its rungs have done: leave it out")
    if "check" in keys:
        raise ValueError("check is not for a race: leave it out, or check the models with losslab plan check=true")
    if wrong := [word for word in arguments if word.startswith("sweep.tune=") and word != "sweep.tune=null"]:
        raise ValueError(f"{wrong[0]} chooses nothing in a race, which drops what is worse: leave it out")
    from losslab.cells import race, race_page, race_plan, race_text
    from losslab.files.atomic import write
    from losslab.results.table_formats import terminal

    plans = dict(argument.split("=", 1) for argument in arguments if argument.startswith("plan="))
    planned = flag(plans, "plan")
    words = [argument for argument in arguments if not argument.startswith(("plan=", "-"))]
    if not any(word.startswith(("sweep.name=", "experiment=")) for word in words):
        words.append("sweep.name=race")
    the_race = race.Race.of(words)
    if tune := the_race.entrants[0].configs[0].sweep.tune:  # of an experiment's file
        log.warning(f"sweep.tune={tune} chooses nothing in the race itself: the pages of its rungs alone follow it")
    if planned:
        print(race_plan.text(the_race))
        return 0
    rungs = race.run(the_race)
    console = Console()
    said = race_text.sentences(the_race, rungs)
    console.print(terminal_text("\n".join(said)) + "\n", highlight=False, markup=False)
    if rungs:
        console.print(terminal(race_text.sheet(the_race, rungs)))
        console.print(race_text.cost(the_race, rungs), highlight=False, soft_wrap=True)
        folder = the_race.results / "tables" / the_race.name
        write(folder / "race.md", race_text.page(the_race, rungs))
        write(folder / "race.csv", race_text.to_csv(rungs))
        console.print(f"race:    {folder}/race.md, race.csv", highlight=False, soft_wrap=True)
        console.print(f"report:  {race_page.write_page(the_race, rungs)}", highlight=False, soft_wrap=True)
    if not race_text.ended(rungs):
        print("the same command continues when they have: losslab status shows how they stand", file=sys.stderr)
        return 1
    return 0
