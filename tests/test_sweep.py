"""A sweep as a whole: what it plans, what it rejects, what it declares, and how cells leave it."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from test_distributed import two_processes

from losslab.cells import run, sweep, training
from losslab.cells.scoring import corpus
from losslab.cells.sweep import Sweep
from losslab.commands.cli import main
from losslab.composition.check_unread import CHECKED, check_unread
from losslab.composition.compose import read, read_cell
from losslab.composition.grid import configurations, overrides
from losslab.config.paths import CONF
from losslab.config.schema import Config
from losslab.data.table import load
from losslab.data.toy_task import demonstrations
from losslab.files.atomic import write
from losslab.launchers.status import sweeps
from losslab.planning import plan
from losslab.planning.sweep_cells import by_protocol
from losslab.records.cell_records import cell_records
from losslab.records.identity import identities, identity
from losslab.records.lock import cell_lock
from losslab.records.record import Cell, protocol_name
from losslab.results.labels import canonical
from losslab.results.load_records import science

TINY = ("model=tiny", "dataset=embedded", "benchmark=[tiny_add]", "machine.device=cpu", "tracker=none")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "_over", set())
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def multirun(*words: str) -> DictConfig:
    """The configuration that Hydra gives to a callback before a multirun."""
    cfg = compose("config", return_hydra_config=True)
    OmegaConf.set_readonly(cfg, False)
    cfg.hydra.overrides.task, cfg.hydra.job.config_name = list(words), "config"
    return cfg


def of(*words: str) -> list[Config]:
    return configurations(multirun(*TINY, *words), read)


def declared() -> set[str]:
    return {json.loads(path.read_text())["names"]["loss"] for path in Path("results/cells").glob("*/cell.json")}


def test_a_cell_that_is_asked_for_twice_is_planned_once(capsys):
    configs = of("loss=dft,dft", "seed=0,0")
    assert len(overrides(multirun(*TINY, "loss=dft,dft", "seed=0,0"))) == 4 and len(configs) == 1
    assert len(by_protocol(of("method=dft") + of("loss=dft"))) == 1  # a row and an objective: one cell
    assert plan.show(configs) == 0
    assert "ablation: 1 cells" in capsys.readouterr().out


def test_seeds_are_composed_once_and_are_those_that_were_asked_for():
    configs = of("seed=3,1", "loss=sft,dft")
    assert [(c.names.loss, c.seed) for c in configs] == [("sft", 3), ("sft", 1), ("dft", 3), ("dft", 1)]
    assert configs[0].model is configs[1].model
    follow = of("seed=3,1", "dataset.seed=${seed}")
    assert [(c.seed, c.dataset.seed) for c in follow] == [(3, 3), (1, 1)]
    assert [c.seed for c in of("seed=0,1", "++seed=5")] == [5] == [c.seed for c in of("++seed=5", "loss=sft")]
    assert [c.seed for c in of("++seed=5,6", "seed=1")] == [1]  # the last one, as Hydra reads them
    with pytest.raises(HydraException):
        of("seed=0,1", "+seed=5")
    with pytest.raises(ValueError, match="^seed is 4294967296: set it between 0 and"):
        of(f"seed=0,{2**32}")
    (config,) = of("seed=7")
    assert identities(config, [7]) == [identity(config)] and Cell.of_seeds(config, [7]) == [Cell.of(config)]
    config.seed = 8
    assert identities(config, [7, 8])[1] == identity(config)


def test_a_seed_that_is_null_is_that_of_the_cell(monkeypatch):
    """Each seed has a base and demonstrations of its own, shared by its objectives; a table has one row of them."""
    options = ("seed=0,1", "model.pretrain_seed=null", "dataset.seed=null", "dataset.rows=20", "model.pretrain_rows=64")
    configs = of("loss=sft,dft,base", *options)
    assert len({Cell.of(config).folder for config in configs}) == len(configs) == 6
    assert {canonical(science(asdict(config))) for config in configs[:2]} == {canonical(science(asdict(configs[0])))}
    made = []
    for module in (run, training):  # of the cell's model, and of the one that it starts from
        monkeypatch.setattr(module, "train_model", lambda config, folder: made.append((config, folder)))
    for config in configs:
        if not config.trains:
            monkeypatch.setattr(run, "check_checkpoint", lambda base: None)
        run.trained_model(config, Cell.of(config))
    bases = [(config.dataset.seed, config.seed, folder) for config, folder in made if config.dataset.split == "corpus"]
    assert {(data, order) for data, order, _ in bases} == {(0, 0), (1, 1)} and len(
        {folder for *_, folder in bases}
    ) == 2
    trained = [(config, config.model.path) for config, _ in made if config.dataset.split == "demonstrations"]
    assert [(config.names.loss, config.dataset.seed) for config, _ in trained] == [
        ("sft", 0), ("sft", 1), ("dft", 0), ("dft", 1)
    ]  # fmt: skip
    assert [path for _, path in trained[:2]] == [path for _, path in trained[2:]] != [trained[0][1]] * 2
    assert [load(config.dataset).data[0] for config, _ in trained[:2]] == [
        demonstrations(20, seed)[0] for seed in (0, 1)
    ]
    assert corpus(configs[0]).key == corpus(configs[2]).key != corpus(configs[1]).key


def test_many_seeds_are_one_plan_and_a_short_table(capsys):
    configs = of("loss=sft", "seed=range(0,3000)")
    assert plan.show(configs) == 0
    printed = capsys.readouterr().out
    assert "ablation: 3000 cells" in printed and "and 2,900 more: 2,900 to run" in printed
    assert printed.count("tiny-") >= 100 and len(printed.splitlines()) < 800


@pytest.mark.parametrize("planned", [False, True])
def test_a_cell_that_cannot_be_planned_stops_that_cell_alone(tmp_path, capsys, planned):
    """Three cells of a model whose config.json cannot be read, and three of one that can."""
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/config.json").write_text('{"model_type": "none of this name"}')
    cells = of("loss=base,sft,dft") + of("loss=base,sft,dft", "model=custom", f"model.path={tmp_path}/bad")
    for config in cells:
        config.plan = planned
    whole = Sweep()
    if planned:
        with pytest.raises(SystemExit) as ended:
            whole._start(cells, multirun())
        assert ended.value.code == 1 and not Path("results").exists()
    else:
        whole._start(cells, multirun())
        assert whole.rejected == 3 and len(list(Path("results/cells").iterdir())) == 3
        assert {cell.folder.name.split("-")[0] for cell in whole.cells} == {"tiny"}
        assert sweep._over == {
            (Cell.of(config).folder, protocol_name(config)) for config in cells[3:]
        }  # which `run` leaves out
        with pytest.raises(ValueError, match=f"^the model model.path={tmp_path}/bad cannot be loaded"):
            Sweep()._start(cells[3:], multirun())
    printed = capsys.readouterr()
    lines = (printed.out + printed.err).split("rejected: ")[1:]
    assert len(lines) == 1 and lines[0].replace("\n", "").startswith("3 cells: the model model.path=")


ONE_BY_ONE = "give each value a command of its own, one after the other"


@pytest.mark.parametrize(
    ("word", "key", "instead"),
    [
        ("benchmark=[tiny_add],[tiny_long]", "benchmark", f"write benchmark=[tiny_add,tiny_long], or {ONE_BY_ONE}"),
        ("eval.samples=4,16", "eval.samples", ONE_BY_ONE),
        ("eval.verdict=official,corrected", "eval.verdict", ONE_BY_ONE),
        ("stage=train,score", "stage", ONE_BY_ONE),
        ("machine.probabilities=4,16", "machine.probabilities", ONE_BY_ONE),
        ("plan=true,false", "plan", ONE_BY_ONE),
        ("force=false,true", "force", ONE_BY_ONE),
        ("model.trust_remote_code=false,true", "model.trust_remote_code", ONE_BY_ONE),
    ],
)
def test_a_sweep_whose_values_share_a_cell_is_refused(word, key, instead):
    """The record of a cell has one of them, and which one ran depended on the launcher."""
    configs = of("loss=sft", "seed=0,1", word)
    assert len(configs) == 4 and len({Cell.of(config) for config in configs}) == 2
    with pytest.raises(ValueError) as refused:
        Sweep()._start(configs, multirun())
    assert (
        str(refused.value)
        == f"{key} makes no cell of its own, so that the sweep would use one of its values: {instead}"
    )
    assert not Path("results").exists()


@pytest.mark.parametrize("key", ["plan", "check", "force"])
def test_rows_that_ask_for_different_commands_are_refused(key):
    """As files of conf/method may, whose cells differ in other keys too."""
    extra = ["plan=true"] if key == "check" else []
    configs = [*of("loss=sft", *extra), *of("loss=dft", f"{key}=true", *extra)]
    with pytest.raises(ValueError, match=f"^{key} makes no cell of its own, so that the sweep would use one of its"):
        Sweep()._start(configs, multirun())
    assert not Path("results").exists()


def test_two_methods_that_are_one_cell_are_refused():
    """Of which a table would have the first alone; a method beside a plain objective is a row all the same."""
    alike = of("method=sft,dft", "loss=sft", "optimizer.lr=5e-5")
    assert len(alike) == 2 and len({Cell.of(config) for config in alike}) == 1
    with pytest.raises(ValueError) as refused:
        Sweep()._start(alike, multirun())
    assert str(refused.value) == (
        "method=sft and method=dft are the same cell here, which has one row in a table: leave one of them out, or "
        "what makes them alike"
    )
    assert not Path("results").exists()


RANK = """
import contextlib, json, sys
sys.path.append(sys.argv[1])
from hydra import initialize_config_dir
from test_sweep import CONF, Sweep, multirun, of, sweep
with contextlib.redirect_stdout(sys.stderr), initialize_config_dir(str(CONF), version_base="1.3"):
    cells = of("loss=base,sft") + of("loss=base", "model=custom", f"model.path={sys.argv[2]}")
    Sweep()._start(cells, multirun())
print(json.dumps([[str(folder), protocol] for folder, protocol in sweep._over]))
"""


def test_every_rank_leaves_out_the_cells_that_the_first_one_rejects(tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/config.json").write_text('{"model_type": "none of this name"}')
    (config,) = of("loss=base", "model=custom", f"model.path={tmp_path}/bad")
    first, second = two_processes(RANK, str(Path(__file__).parent), f"{tmp_path}/bad")
    assert first == second == [[str(Cell.of(config).folder), protocol_name(config)]]


def test_a_mistake_in_one_cell_of_a_command_declares_nothing():
    with pytest.raises(ValueError, match="^loss=dpo needs pairs of answers"):
        of("loss=sft,dpo")
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("varied", "word", "sentence"),
    [
        ("adapter.rank=0,4", "adapter.target_modules=[q_proj]", "adapter.target_modules is for adapters, and adapter."),
        ("adapter=none,lora", "adapter.alpha=32", "adapter.alpha is for adapters, and adapter.rank=0 trains all"),
        ("scheduler=cosine,wsd", "scheduler.decay_ratio=0.1", "scheduler.decay_ratio is for scheduler.shape=wsd"),
        ("scheduler=constant,cosine", "scheduler.floor=0.1", "scheduler.floor is where the learning rate ends, and"),
        ("scheduler.warmup_steps=5,null", "scheduler.warmup_ratio=0.2", "scheduler.warmup_steps takes the place of"),
    ],
)
def test_a_key_is_refused_where_no_cell_of_a_sweep_reads_it(monkeypatch, capsys, varied, word, sentence):
    """The first cell of each sweep does not; it stands here alone, beside a base, beside others, and as a part."""
    group, first = varied.partition(",")[0], f"^{re.escape(sentence)}"
    with pytest.raises(ValueError, match=first):
        of("loss=sft", group, word)
    alike = configurations(multirun(*TINY, "loss=base,sft,dft", "seed=0,1", group, word), read_cell)
    with pytest.raises(ValueError, match=first):
        check_unread(alike)
    swept = [*TINY, "loss=base,sft", "seed=0,1", varied, word]
    configs = configurations(multirun(*swept), read_cell)
    check_unread(configs)
    assert sum(config.trains for config in configs) == 4
    with pytest.raises(SystemExit) as ended:
        Sweep().on_multirun_start(multirun(*swept, "plan=true"))
    assert ended.value.code == 0 and "ablation: 6 cells" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        Sweep().on_multirun_start(multirun(*TINY, "loss=sft,dft", group, word, "plan=true"))
    assert ended.value.code == 2 and capsys.readouterr().err.startswith(f"error: {sentence}")
    monkeypatch.setenv(CHECKED, "1")
    assert len(of("loss=sft", group, word)) == 1


@pytest.mark.parametrize(
    ("varied", "alone"),
    [
        (("loss=sft", "adapter=lora", "adapter.rank=0,8", "adapter.alpha=8,32"), ("loss=sft",)),
        (("loss=sft", "scheduler.shape=cosine,constant", "scheduler.floor=0,0.1"), ("loss=sft", "scheduler=constant")),
        (("loss=sft", "scheduler.shape=cosine,wsd", "scheduler.decay_ratio=0.1,0.3"), ("loss=sft",)),
        (
            ("loss=sft", "scheduler.warmup_steps=5,null", "scheduler.warmup_ratio=0.1,0.2"),
            ("loss=sft", "scheduler.warmup_steps=5"),
        ),
        (("loss=sft,grpo", "train.drop_last=false,true"), ("loss=grpo",)),
    ],
)
def test_what_a_cell_does_not_read_makes_no_other_cell(varied, alone):
    """Of two by two values two are one cell, that of a command without the key."""
    configs = configurations(multirun(*TINY, *varied), read_cell)
    check_unread(configs)
    made = {identity(config) for config in configs}
    assert (len(configs), len(made), len(by_protocol(configs))) == (4, 3, 3)
    (plain,) = of(*alone)
    assert identity(plain) in made


def test_a_gpu_that_is_not_there_is_refused_before_anything_is_declared():
    (config,) = of("loss=sft", "machine.device=cuda")
    with pytest.raises(ValueError, match="^machine.device=cuda, but no GPU is visible here: set machine.device=auto"):
        Sweep()._start([config], multirun())
    assert not Path("results").exists()


def test_a_sweep_with_a_cell_that_came_to_no_end_has_failed(capsys):
    """As one whose process was killed; a cell that another job runs is left to that."""
    (config,) = of("loss=sft")
    whole, own = Sweep(), Cell.of(config)
    whole.cells = {own: [config]}
    own.declare(config)
    own.update(state="training")
    with cell_lock(own.folder):
        whole._end()
    capsys.readouterr()
    write(own.folder / "logs/main.txt", "")
    with pytest.raises(SystemExit) as ended:
        whole._end()
    assert ended.value.code == 1
    printed = "".join(capsys.readouterr()).replace("\n", " ")
    assert f"1 of 1 cells came to no end: see {own.folder}/logs/main.txt; the same command continues" in printed


def test_cells_leave_a_sweep(capsys):
    configs = of("loss=base,sft,dft", "seed=0,1", "optimizer.lr=1e-4")
    for config in configs:
        Cell.of(config).declare(config)
    begun = Cell.of(configs[2])
    begun.update(state="failed", error="on purpose")
    main(["forget", "ablation", "loss=sft", "seed=1", "optimizer.lr=0.0001"])
    assert "1 of 6 cells removed" in capsys.readouterr().out
    left = {record.folder.name for record in sweeps(cell_records("results"))["ablation"]}
    assert left == {Cell.of(config).folder.name for config in configs} - {Cell.of(configs[3]).folder.name}
    assert not Cell.of(configs[3]).folder.exists()  # never begun, and in no other sweep
    main(["forget", "ablation", str(begun.folder)])
    assert begun.folder.exists() and begun.state()["sweeps"] == [] and begun.state()["state"] == "failed"
    main(["forget", "ablation", "state=waiting"])
    assert "ablation" not in sweeps(cell_records("results")) and [
        path.name for path in Path("results/cells").iterdir()
    ] == [begun.folder.name]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "give the sweep: losslab forget SWEEP"),
        ("ablatoin", "no record of the sweep ablatoin under results; did you mean ablation?"),
        ("ablation nothing", "nothing is not a cell of ablation; there are tiny-base-s0-"),
        ("ablation los=sft", "unknown key los; did you mean loss?, and the keys of docs/configuration.md"),
        ("ablation loss=dft", "no cell of ablation has loss=dft: `losslab status ablation` lists its cells"),
    ],
)
def test_a_mistake_in_what_to_forget_is_one_sentence(capsys, words, message):
    (config,) = of("loss=base")
    Cell.of(config).declare(config)
    with pytest.raises(SystemExit) as ended:
        main(["forget", *words.split()])
    assert ended.value.code == 2 and capsys.readouterr().err.startswith(f"error: {message}")
    assert len(sweeps(cell_records("results"))["ablation"]) == 1
