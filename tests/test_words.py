"""The words of a command line: a key has one value."""

import pytest

from losslab.commands.cli import main
from losslab.composition.check_unread import CHECKED
from losslab.composition.words import check_twice, last_of_each


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "loss=sft", "loss=dft"], "loss is given twice, as loss=sft and loss=dft: write it once, as in -m"),
        (["train", "plan=true", "plan=false"], "plan is given twice, as plan=true and plan=false: write it once"),
        (["train", "-m", "seed=1", "seed=2"], "seed is given twice, as seed=1 and seed=2: write it once, as in -m"),
        (["train", "++seed=1", "seed=2"], "seed is given twice, as ++seed=1 and seed=2"),
        (["sample", "model=tiny", "samples=2", "eval.samples=3"], "eval.samples is given twice, as eval.samples=2 and"),
        (
            ["compare", "a", "b", "results=x", "results=y"],
            "results is given twice, as results=x and results=y: ",
        ),
        (["evaluate", "model=tiny", "loss=sft"], "losslab evaluate trains nothing: leave loss=sft out"),
    ],
)
def test_a_key_with_two_values_is_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and f"error: {message}" in capsys.readouterr().err


def test_in_a_part_of_a_sweep_the_last_word_of_a_key_counts(monkeypatch):
    """As in the sweep itself, whose words a launcher or a race hands on: a file's, then those of the command line."""
    monkeypatch.setenv(CHECKED, "1")
    seen: list[list[str]] = []
    monkeypatch.setattr("losslab.commands.train.main", lambda rest: seen.append(rest))
    main(["train", "+dataset.keep={source: a}", "dataset.keep={source: b}"])
    assert seen == [["+dataset.keep={source: a}", "dataset.keep={source: b}"]]


def test_a_word_may_be_repeated_and_keys_of_groups_are_other_keys():
    check_twice(["-m", "loss=sft", "loss=sft", "loss.floor=1", "~hydra.callbacks.sweep", "model=a", "model.path=b"])


def test_the_last_word_of_a_key_is_kept_in_its_place():
    assert last_of_each(["loss=sft", "seed=1", "-m", "loss=dft", "+a=1", "a=2"]) == [
        "seed=1", "-m", "loss=dft", "+a=1", "a=2",
    ]  # fmt: skip
