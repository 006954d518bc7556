"""What a launcher is told and does not do is refused, for a plan too."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from losslab.cells.sweep import Sweep
from losslab.commands.cli import main
from losslab.config.paths import CONF
from losslab.launchers.settings import check

REFUSED = [
    ("slurm", "max_num_timeout=3", "max_num_timeout=3 is not read: leave it out; hydra.launcher.tries says how often"),
    ("slurm", "name=mine", "name=mine is not read: leave it out; the jobs of a sweep are called after sweep.name"),
    ("slurm", "submitit_folder=/tmp/x", "submitit_folder=/tmp/x is not read: leave it out; the files of its jobs lie"),
    ("slurm", "array_parallelism=-3", "array_parallelism is -3: set it to 1 or more"),
    ("slurm", "timeout_min=-5", "timeout_min is -5: set it to 1 or more"),
    ("slurm", "tries=0", "tries is 0: set it to 1 or more"),
    ("slurm", "gpus_per_node=-1", "gpus_per_node is -1: set it to 0 or more"),
    ("slurm", "nodes=0", "nodes is 0: set it to 1 or more"),
    ("local", "processes=0", "processes is 0: set it to 1 or more"),
    ("local", "processes=-1", "processes is -1: set it to 1 or more"),
]


@pytest.mark.parametrize(("launcher", "setting", "message"), REFUSED)
def test_a_setting_without_effect_or_sense_is_refused(launcher, setting, message):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        words = [f"hydra/launcher={launcher}", f"hydra.launcher.{setting}"]
        config = compose("config", words, return_hydra_config=True)
    with pytest.raises(ValueError, match=f"^hydra.launcher.{message}"):
        check(config.hydra.launcher)


@pytest.mark.parametrize("launcher", ["slurm", "local", "basic"])
def test_the_settings_of_the_files_are_accepted(launcher):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        check(compose("config", [f"hydra/launcher={launcher}"], return_hydra_config=True).hydra.launcher)


def test_a_plan_refuses_it_too(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["model=tiny", "dataset=embedded", "benchmark=[tiny_add]", "tracker=none", "loss=sft,dft"]
    with pytest.raises(SystemExit) as ended:
        main(["plan", "-m", *words, "hydra/launcher=slurm", "hydra.launcher.tries=0"])
    assert ended.value.code == 2
    assert "error: hydra.launcher.tries is 0: set it to 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["train", "score"])
@pytest.mark.parametrize("planned", [False, True])
def test_a_stage_is_refused_where_both_have_jobs(capsys, tmp_path, monkeypatch, stage, planned):
    monkeypatch.chdir(tmp_path)
    words = ["model=tiny", "dataset=embedded", "benchmark=[tiny_add]", "tracker=none", "loss=sft,dft", f"stage={stage}"]
    words += ["hydra/launcher=slurm", "hydra.launcher.separate_evaluation=true"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", return_hydra_config=True)
        OmegaConf.set_readonly(config, False)
        config.hydra.overrides.task, config.hydra.job.config_name = words[:6] + planned * ["plan=true"], "config"
        config.hydra.launcher = compose("config", words[6:], return_hydra_config=True).hydra.launcher
        with pytest.raises(SystemExit) as ended:
            Sweep().on_multirun_start(config)
    assert ended.value.code == 2 and capsys.readouterr().err.splitlines() == [
        f"error: hydra.launcher.separate_evaluation=true runs both stages: leave stage={stage} out, or leave it false"
    ]
    assert not list(tmp_path.iterdir())
