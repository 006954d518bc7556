"""Each key of the configuration has a test that shows its value where it is used: the table names it."""

import ast
import re
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import datasets
import pytest
import torch
import torch.distributed as dist
import wandb
from conftest import ROOT
from endpoint import Endpoint, served
from hydra import initialize_config_dir
from test_compose import make
from test_configuration import KEYS
from test_passed_through import Answers, scored
from test_tables import cell
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils import deterministic
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from losslab.cells import plan_check, sweep, training
from losslab.config.choices import Corpus, Device, Precision, Recompute, Sharding, TrackerMode, TrackerName, VerdictName
from losslab.config.machine import MachineConfig, TrackerConfig
from losslab.config.paths import CONF
from losslab.config.schema import (
    AdapterConfig,
    BenchmarkConfig,
    Config,
    DatasetConfig,
    Engine,
    EvalConfig,
    ModelConfig,
    OptimizerConfig,
    ReferenceConfig,
    TrainConfig,
)
from losslab.config.sweep import SweepConfig
from losslab.data import hub_datasets
from losslab.data.batch_sampler import RandomBatchSampler
from losslab.data.examples import Examples, prepare
from losslab.data.rows import read
from losslab.data.tokenise import Tokeniser
from losslab.evaluation import benchmarks
from losslab.evaluation.evaluate import evaluate
from losslab.files.json_files import read_json, write_lines
from losslab.models import layout, weight_files
from losslab.models.loading import load_model, load_tokenizer, structure
from losslab.models.policy import Policy, build, layers
from losslab.planning import plan
from losslab.planning.architecture import Architecture, describe
from losslab.records.record import Cell
from losslab.results.write_tables import write_table
from losslab.tracking import follow
from losslab.training.loop import start
from losslab.training.optimizer import make_optimizer
from losslab.training.passes import loader
from losslab.training.reference_logps import Reference

CPU = torch.device("cpu")
SHOWN_BY = {
    "test_benchmarks.py::test_a_benchmark_owns_its_rules_prompt_and_stops": "benchmark.rules benchmark.prompt",
    "test_benchmarks.py::test_a_parquet_file": "benchmark.path",
    "test_benchmarks.py::test_bad_files_are_one_clear_sentence": (
        "benchmark.question benchmark.answer benchmark.gold benchmark.rows"
    ),
    "test_checkpoints.py::test_checkpoints_that_a_kill_left_behind_a_finished_model_go": "stage",
    "test_checkpoints.py::test_exports_between": "machine.export_steps",
    "test_checkpoints.py::test_from_two_ranks_to_one": "machine.workers",
    "test_checkpoints.py::test_the_last_and_every_kth_stay": "machine.keep_last machine.keep_every",
    "test_claims.py::test_after_some_steps": "sweep.directions.step",
    "test_claims.py::test_ends_of_the_histogram": "sweep.directions.grows",
    "test_claims.py::test_rows_are_told_apart_by_any_key": "sweep.directions.higher sweep.directions.lower",
    "test_claims.py::test_the_table_of_claims": "sweep.directions.claim",
    "test_code_rewards.py::test_rows_are_problems_asked_with_the_prompt_and_stops_of_the_data_set": (
        "dataset.rules dataset.stop"
    ),
    "test_compose.py::test_methods_on_a_models_own_answers": "dataset.source",
    "test_conversations.py::test_a_prompt_that_is_no_chat_holds_one_question_and_its_answer": "model.train_prompt",
    "test_conversations.py::test_system_prompts_tools_and_arguments_reach_the_template": "model.template_arguments",
    "test_conversations.py::test_the_end_of_an_answer_is_trained_once": "dataset.answer_end",
    "test_conversations.py::test_the_last_turn_alone_or_each_in_an_example": "dataset.turns",
    "test_data.py::test_read_selects_rows_and_names_a_missing_column": "dataset.path dataset.rows dataset.selection",
    "test_data.py::test_schedule_sees_every_example_once_an_epoch": (
        "train.epochs train.max_steps train.batch_size train.updates train.drop_last"
    ),
    "test_data.py::test_truncation_keeps_the_start_and_drops_prompts_without_room": "train.max_length train.overlong",
    "test_data.py::test_what_is_kept_is_counted_and_a_zero_is_something": "dataset.keep",
    "test_distributed.py::test_a_gpu_for_each_task_or_all_of_them_for_all": "machine.device",
    "test_evaluation.py::test_an_evaluation_writes_its_records": (
        "eval.full_samples benchmark.breakdown machine.engine"
    ),
    "test_evaluation.py::test_prompts_stops_and_warnings_follow_the_model": "model.eval_prompt model.stop",
    "test_evaluation.py::test_the_cost_of_a_served_model_is_that_of_all_samples_of_the_folder": "machine.api_prices",
    "test_experiments.py::test_what_is_not_built_is_one_clear_error": "sweep.needs",
    "test_failures.py::test_a_results_folder_that_cannot_be_written": "machine.results",
    "test_golds.py::test_no_option_is_missing_from_a_prompt": "benchmark.instruction",
    "test_golds.py::test_the_gold_of_a_row_with_options_is_a_letter": "benchmark.options",
    "test_harness.py::test_the_choice_on_record_is_the_one_that_the_metric_judges": "benchmark.metric",
    "test_image_rows.py::test_a_broken_image_is_a_broken_row_and_is_named": "dataset.max_broken",
    "test_image_rows.py::test_texts_that_may_be_images_are_not_left_out": "dataset.images_column",
    "test_image_training.py::test_what_is_trained_is_the_decoder_unless_the_vision_tower_is_asked_for": (
        "train.freeze_vision"
    ),
    "test_kl_to_base.py::test_the_number_that_is_asked_for_is_measured_evenly": "machine.kl_to_base",
    "test_layouts.py::test_the_normaliser_of_a_step": "train.normaliser",
    "test_lora.py::test_all_linear_layers_are_those_of_the_decoder": "adapter.modules_to_save",
    "test_official_recipe.py::test_the_sum_over_micro_batches_is_what_the_mean_is_not": (
        "train.reduction train.micro_batch"
    ),
    "test_official_recipe.py::test_three_steps_equal_the_official_ones": "optimizer.weight_decay train.clip",
    "test_paper.py::test_differences_from_the_paper": "sweep.paper",
    "test_paper.py::test_scores_over_settings": "sweep.against",
    "test_passed_through.py::test_as_many_samples_again_are_drawn_with_another_seed": "eval.samples",
    "test_passed_through.py::test_the_limit_of_a_verdict_reaches_the_graders": (
        "machine.grading_seconds machine.unsafe_code"
    ),
    "test_passed_through.py::test_the_protocol_reaches_the_job": (
        "eval.temperature eval.top_p eval.max_new_tokens eval.seed benchmark.stop machine.tensor_parallel"
    ),
    "test_passed_through.py::test_without_seeds_of_requests_the_engine_has_one_and_another_when_it_goes_on": (
        "eval.request_seeds"
    ),
    "test_power.py::test_a_plan_says_what_it_can_show_from_assumptions_and_from_the_base": "sweep.difference",
    "test_preview.py::test_the_prompt_is_that_of_the_data_set_where_it_has_one": "dataset.template",
    "test_prompting.py::test_a_benchmark_keeps_its_own_prompt_and_examples": (
        "benchmark.examples.problem benchmark.examples.answer prompt.stop"
    ),
    "test_prompting.py::test_examples_are_earlier_turns_of_the_chat": "prompt.turns",
    "test_prompting.py::test_examples_stand_before_the_question_as_text": (
        "prompt.template prompt.question prompt.example prompt.examples.problem prompt.examples.answer"
    ),
    "test_run.py::test_a_broken_benchmark_shows_before_the_training": "eval.data",
    "test_run.py::test_force_runs_a_finished_cell_again_but_once": "force",
    "test_sampling.py::test_questions_are_the_different_ones_with_a_gold": "dataset.gold_column",
    "test_sweep.py::test_a_cell_that_cannot_be_planned_stops_that_cell_alone": "plan",
    "test_sweep.py::test_a_seed_that_is_null_is_that_of_the_cell": "dataset.seed",
    "test_table4.py::test_a_step_is_trained_and_a_batch_scored": "dataset.image_folder",
    "test_target_probabilities.py::test_counts_equal_those_of_full_softmax": "machine.probabilities",
    "test_tracking.py::test_mode_without_a_login_is_offline": "tracker.name",
    "test_tracking.py::test_wandb_has_config_curves_scores_over_steps_samples_and_the_table": "tracker.checkpoints",
    "test_training.py::test_a_skipped_step_moves_the_schedule_and_nothing_else": "train.non_finite",
    "test_training.py::test_bfloat16_is_close_to_float32_on_one_rank_and_on_two": "train.precision",
    "test_training.py::test_learning_rate_shapes": (
        "scheduler.shape scheduler.warmup_ratio scheduler.warmup_steps scheduler.warmup_at_zero scheduler.decay_ratio "
        "scheduler.floor"
    ),
    "test_training.py::test_three_steps_equal_the_naive_version": (
        "loss machine.checkpoint_steps machine.validation_steps"
    ),
    "test_training.py::test_weight_decay_spares_biases_and_norm_gains_unless_told_otherwise": "optimizer.decay",
    "test_tuning.py::test_a_record_knows_what_a_sweep_tunes_until_it_leaves_it": "sweep.tune",
    "test_validation.py::test_a_share_is_taken_from_training_and_is_the_same_whatever_the_cell": "dataset.validation",
    "test_versions.py::test_a_benchmark_has_them_and_its_hash_does_not": "benchmark.versions_of benchmark.original",
    "test_vision.py::test_arguments_of_the_processor_reach_it": "model.image_arguments",
    "test_vision.py::test_images_of_every_form_are_read_and_counted_in_the_hash": "benchmark.images",
    # Those of this file.
    "test_consumers.py::test_the_recipe_of_a_tiny_model": (
        "model.pretrain_rows model.pretrain_split model.pretrain_batch model.pretrain_learning_rate "
        "model.pretrain_seed"
    ),
    "test_consumers.py::test_models_are_loaded_from_the_hub_by_their_revision_and_with_their_trust": (
        "model.path model.revision model.trust_remote_code reference.path reference.revision"
    ),
    "test_consumers.py::test_rows_are_loaded_from_the_hub_by_subset_split_and_revision": (
        "dataset.subset dataset.split dataset.revision benchmark.subset benchmark.split benchmark.revision"
    ),
    "test_consumers.py::test_columns_are_those_that_are_named": (
        "dataset.messages_column dataset.prompt_column dataset.answer_column dataset.prompt dataset.answer "
        "dataset.rejected_column dataset.reward_column dataset.success_rate_column dataset.weights_column"
    ),
    "test_consumers.py::test_an_architecture_is_planned_as_it_is_given": "model.architecture",
    "test_consumers.py::test_the_optimizer_has_its_class_its_arguments_and_the_models_learning_rate": (
        "model.learning_rate optimizer._target_ optimizer.lr optimizer.arguments"
    ),
    "test_consumers.py::test_a_worker_is_set_up_with_its_threads_its_determinism_and_its_seed": (
        "machine.threads machine.deterministic seed"
    ),
    "test_consumers.py::test_adapters_are_those_that_are_asked_for": (
        "adapter.rank adapter.alpha adapter.target_modules"
    ),
    "test_consumers.py::test_weights_are_held_in_the_dtype_that_is_asked_for": "train.weights",
    "test_consumers.py::test_layers_are_laid_out_as_the_machine_says": (
        "machine.recompute machine.compile machine.reshard machine.sharding machine.cpu_offload"
    ),
    "test_consumers.py::test_no_micro_batch_has_more_tokens": "machine.micro_batch_tokens",
    "test_consumers.py::test_an_endpoint_is_asked_as_often_as_is_allowed": "machine.api_retries",
    "test_consumers.py::test_an_endpoint_is_asked_for_its_model_by_several_at_once": (
        "machine.api_url machine.api_model machine.api_concurrency"
    ),
    "test_consumers.py::test_the_verdict_that_is_asked_for_makes_the_score": "eval.verdict",
    "test_consumers.py::test_a_plan_checks_its_models_where_that_is_asked_for": "check",
    "test_consumers.py::test_wandb_is_started_with_the_keys_of_the_tracker": (
        "tracker.mode tracker.project tracker.entity"
    ),
    "test_consumers.py::test_a_table_has_its_sweeps_name_question_and_next_command": (
        "sweep.name sweep.question sweep.next"
    ),
}  # fmt: skip
SHOWN = {key: test for test, keys in SHOWN_BY.items() for key in keys.split()}


@cache
def functions(file: str) -> dict[str, ast.FunctionDef]:
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def words(test: ast.FunctionDef) -> set[str]:
    """What a test names: attributes, keyword arguments, and the words of its texts."""
    found = set()
    for node in ast.walk(test):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.keyword) and node.arg:
            found.add(node.arg)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= set(re.findall(r"\w+", node.value))
    return found


def test_every_key_is_in_the_table_once():
    assert set(SHOWN) == set(KEYS)
    assert len(SHOWN) == sum(len(keys.split()) for keys in SHOWN_BY.values())


@pytest.mark.parametrize("key", SHOWN)
def test_a_test_shows_each_key_at_its_consumer(key):
    file, name = SHOWN[key].split("::")
    assert name in functions(file), f"{SHOWN[key]} does not exist"
    assert key.rpartition(".")[2] in words(functions(file)[name]), f"{SHOWN[key]} does not name {key}"


@pytest.fixture
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@pytest.fixture
def worker(one_rank, monkeypatch) -> Iterator[None]:
    """This process as the only worker; in the end it computes as all tests do, with one thread."""
    for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, str(int(name == "LOCAL_WORLD_SIZE")))
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(deterministic, "fill_uninitialized_memory", deterministic.fill_uninitialized_memory)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(1)


def test_the_recipe_of_a_tiny_model(tmp_path, monkeypatch):
    made: list[Config] = []
    monkeypatch.setattr(training, "train_model", lambda config, folder: made.append(config))
    model = ModelConfig(
        path="embedded", pretrain_rows=70, pretrain_split=Corpus.program_corpus, pretrain_batch=3,
        pretrain_learning_rate=0.25, pretrain_seed=4,
    )  # fmt: skip
    training.base_model(Config(model=model, machine=MachineConfig(results=str(tmp_path))))
    (recipe,) = made
    assert (recipe.dataset.rows, recipe.dataset.split, recipe.dataset.seed, recipe.seed) == (70, "program_corpus", 4, 4)
    assert (recipe.train.batch_size, recipe.optimizer.lr) == (3, 0.25)


def test_models_are_loaded_from_the_hub_by_their_revision_and_with_their_trust(worker, checkpoint, monkeypatch):
    """The policy and its reference, as each function of the libraries is asked for it."""
    asked = set()

    def spy(owner: type, name: str = "from_pretrained") -> None:
        real = getattr(owner, name)

        def call(path, *args, **options):
            if str(path).startswith("org/"):
                trust = options.pop("trust_remote_code", None)
                asked.add((owner.__name__, path, options.pop("revision"), trust))
                path = str(checkpoint)
            return real(path, *args, **options)

        monkeypatch.setattr(owner, name, call)

    def download(path, revision, **_) -> str:
        asked.add(("files", path, revision, None))
        return str(checkpoint)

    def cached(path, file, revision) -> str | None:
        asked.add(("look-up", path, revision, None))
        return file if file == "config.json" else None

    for owner in (AutoTokenizer, AutoConfig, AutoModelForCausalLM, GenerationConfig):
        spy(owner)
    from_config = AutoModelForCausalLM.from_config
    trusted = []
    monkeypatch.setattr(
        AutoModelForCausalLM,
        "from_config",
        lambda config, **options: trusted.append(options["trust_remote_code"]) or from_config(config, **options),
    )
    monkeypatch.setattr(weight_files, "snapshot_download", download)
    monkeypatch.setattr(hub_datasets, "silence", lambda: None)
    monkeypatch.setattr(hub_datasets.hub, "try_to_load_from_cache", cached)
    model = ModelConfig(path="org/policy", revision="abc", trust_remote_code=True)
    config = Config(model=model, reference=ReferenceConfig("org/teacher", revision="def"))
    config.machine = MachineConfig(recompute=Recompute.none, compile=False)
    build(config, CPU, reference=True)
    for each in (config.model, config.reference_model):
        load_tokenizer(each)
        structure(each)
        weight_files.weight_files(each)
    models = (("org/policy", "abc"), ("org/teacher", "def"))
    trusting = ("AutoTokenizer", "AutoConfig", "AutoModelForCausalLM")
    assert asked == {(name, *each, True) for name in trusting for each in models} | {
        (name, *each, None) for name in ("GenerationConfig", "files", "look-up") for each in models
    }
    assert trusted == [True, True]


def test_rows_are_loaded_from_the_hub_by_subset_split_and_revision(monkeypatch):
    asked = []

    def load_dataset(*place, **options) -> datasets.Dataset:
        asked.append((*place, options))
        return datasets.Dataset.from_list([{"problem": "2+2?", "solution": "4", "answer": "4"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(hub_datasets, "silence", lambda: None)
    assert len(read(DatasetConfig(path="org/rows", subset="main", split="validation", revision="abc"))) == 1
    about = BenchmarkConfig(path="org/sums", subset="hard", split="dev", revision="def")
    assert len(benchmarks.load("sums", about).problems) == 1
    assert asked == [
        ("org/rows", "main", {"split": "validation", "revision": "abc"}),
        ("org/sums", "hard", {"split": "dev", "revision": "def"}),
    ]


def talk(answer: str) -> list[dict]:
    return [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": answer}]


@pytest.mark.parametrize(
    ("keys", "prompt", "answers", "rest"),
    [
        ({"prompt_column": "q", "answer_column": "a"}, "2+2?", ("4",), {}),
        ({"prompt": "Q {q}", "answer": "<{a}>"}, "Q 2+2?", ("<4>",), {}),
        ({"messages_column": "talk"}, [], (talk("Ho"),), {}),
        ({"prompt_column": "q", "answer_column": "a", "rejected_column": "bad"}, "2+2?", ("4", "5"), {}),
        (
            {"prompt_column": "q", "answer_column": "a", "reward_column": "right", "success_rate_column": "rate"},
            "2+2?", ("4",), {"rewards": (1, 0.25)},
        ),
        ({"prompt_column": "q", "answer_column": "a", "weights_column": "w"}, "2+2?", ("4",), {"weights": (1, 3)}),
    ],
)  # fmt: skip
def test_columns_are_those_that_are_named(tmp_path, keys, prompt, answers, rest):
    """Of a row with a pair, a reward, weights, and two conversations, whose names say nothing."""
    row = {"q": "2+2?", "a": "4", "bad": "5", "right": 1, "rate": 0.25, "w": [1, 3]}
    row |= {"messages": talk("Hm"), "talk": talk("Ho")}
    write_lines(tmp_path / "rows.jsonl", [row])
    found = read(DatasetConfig(path=str(tmp_path / "rows.jsonl"), **keys)).usable[1]
    assert (found.prompt, found.answers) == (prompt, answers)
    assert {name: getattr(found, name) for name in rest} == rest


def test_an_architecture_is_planned_as_it_is_given(hydra):
    """Nothing is loaded, from a place that is none."""
    given = make("model=tiny").model.architecture | {"num_hidden_layers": 7}
    found = describe(Config(model=ModelConfig(path="/none", architecture=given)))
    assert isinstance(found, Architecture) and found.num_hidden_layers == 7


def test_the_optimizer_has_its_class_its_arguments_and_the_models_learning_rate(hydra):
    assert make("model.learning_rate=0.125").optimizer.lr == 0.125
    about = OptimizerConfig(_target_="torch.optim.SGD", lr=0.25, arguments={"momentum": 0.5, "nesterov": True})
    optimizer = make_optimizer(about, nn.Linear(2, 2))
    assert type(optimizer) is torch.optim.SGD
    (group, _) = optimizer.param_groups
    assert (group["lr"], group["momentum"], group["nesterov"]) == (0.25, 0.5, True)


def test_a_worker_is_set_up_with_its_threads_its_determinism_and_its_seed(worker):
    """What an objective draws, and the first values of adapters, are functions of the seed."""
    drawn, adapters = [], []
    for seed, threads, exact in ((3, 2, False), (3, 1, True), (4, 1, True)):
        machine = MachineConfig(
            device=Device.cpu, threads=threads, deterministic=exact, recompute=Recompute.none, compile=False
        )
        config = Config(seed=seed, machine=machine, model=ModelConfig(path="embedded"))
        config.adapter = AdapterConfig(rank=2, target_modules=["q_proj"])
        start(config)
        assert torch.get_num_threads() == threads
        assert torch.are_deterministic_algorithms_enabled() == exact
        drawn.append(torch.rand(4).tolist())
        weights = build(config, CPU, reference=False).state_dict()
        adapters.append(torch.cat([weights[name].flatten() for name in sorted(weights) if "lora_A" in name]).tolist())
    for first, again, other in (drawn, adapters):
        assert first == again != other


def test_adapters_are_those_that_are_asked_for(worker):
    config = Config(model=ModelConfig(path="embedded"))
    config.machine = MachineConfig(recompute=Recompute.none, compile=False)
    config.adapter = AdapterConfig(rank=3, alpha=12, target_modules=["q_proj", "up_proj"])
    adapted = {name: part for name, part in build(config, CPU, reference=False).named_modules() if "_proj" in name}
    adapted = {name: part for name, part in adapted.items() if hasattr(part, "lora_A")}
    assert {name.rpartition(".")[2] for name in adapted} == {"q_proj", "up_proj"}
    for layer in adapted.values():
        assert (list(layer.scaling.values()), layer.lora_A["default"].weight.shape[0]) == ([4.0], 3)


@pytest.mark.parametrize(("weights", "dtype"), [(Precision.fp32, torch.float32), (Precision.bf16, torch.bfloat16)])
def test_weights_are_held_in_the_dtype_that_is_asked_for(worker, weights, dtype):
    config = Config(model=ModelConfig(path="embedded"), train=TrainConfig(weights=weights))
    config.machine = MachineConfig(recompute=Recompute.none, compile=False)
    assert {parameter.dtype for parameter in build(config, CPU, reference=False).parameters()} == {dtype}


@pytest.mark.parametrize(
    "machine",
    [
        {},
        {"cpu_offload": True},
        {"reshard": False},
        {"sharding": Sharding.hybrid},
        {"compile": True},
        {"recompute": Recompute.selective},
        {"recompute": Recompute.full},
    ],
    ids=str,
)
def test_layers_are_laid_out_as_the_machine_says(machine, monkeypatch):
    """As the first of four ranks on two nodes, none of which has to be there."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    plain = {"recompute": Recompute.none, "compile": False, "reshard": True}
    policy = Policy(load_model(ModelConfig(path="embedded")), Precision.fp32, torch.float32, AdapterConfig())
    stack = layers(policy.model)
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    try:
        layout.lay_out(policy, [stack], Config(machine=MachineConfig(**plain | machine)), CPU)
    finally:
        dist.destroy_process_group()
    for layer in stack:
        group = layer._get_fsdp_state()._fsdp_param_group
        again = Recompute.none
        if hasattr(layer, "checkpoint_fn"):
            again = Recompute.selective if "context_fn" in layer.checkpoint_fn.keywords else Recompute.full
        found = {
            "cpu_offload": isinstance(group.offload_policy, CPUOffloadPolicy),
            "reshard": group.post_forward_mesh_info is not None,
            "sharding": Sharding.hybrid if next(layer.parameters()).device_mesh.shape == (2, 2) else Sharding.full,
            "compile": layer._compiled_call_impl is not None,
            "recompute": again,
        }
        assert found == {"cpu_offload": False, "sharding": Sharding.full} | plain | machine


@pytest.mark.parametrize("tokens", [64, 128])
def test_no_micro_batch_has_more_tokens(checkpoint, rows, tmp_path, one_rank, tokens):
    config = Config(
        model=ModelConfig(path=str(checkpoint)), dataset=DatasetConfig(path=str(rows)),
        machine=MachineConfig(micro_batch_tokens=tokens), loss={"_target_": "losslab.objectives.sft.SFT"},
    )  # fmt: skip
    tokeniser = Tokeniser(config.model, config.dataset, load_tokenizer(config.model))
    examples = Examples.load(prepare(tokeniser, config.train, tmp_path))
    sampler = RandomBatchSampler.of(config.train, 0, examples)
    reference = Reference.of(config.objective, tmp_path / "none", None, examples)
    with loader(config, examples, sampler, reference, CPU) as batches:
        sizes = [micro.batch.tokens.numel() for micro in batches.take(0).micro_batches]
    assert tokens / 2 < max(sizes) <= tokens and len(sizes) > 1


class Full(Endpoint):
    """Has no room for anybody."""

    asked = 0

    def answer(self, body: dict) -> str:
        raise AssertionError(body)

    def do_GET(self) -> None:
        Full.asked += 1
        self.send_response(503)
        self.send_header("retry-after-ms", "10")
        self.send_header("Content-Length", "0")
        self.end_headers()


class Pairs(Endpoint):
    """Answers two requests that wait at the same time, and counts those that do."""

    model = "own"
    asked: list[str] = []  # noqa: RUF012
    both = threading.Barrier(2, timeout=20)
    waiting = most = 0
    count = threading.Lock()

    def answer(self, body: dict) -> str:
        with self.count:
            Pairs.asked.append(body["model"])
            Pairs.waiting += 1
            Pairs.most = max(Pairs.most, Pairs.waiting)
        self.both.wait()
        time.sleep(0.2)  # a third request would come meanwhile
        with self.count:
            Pairs.waiting -= 1
        return "\\boxed{4}"


def scores_of(folder: Path, **machine) -> dict:
    """Of three answers of an endpoint to each of two problems."""
    write_lines(folder / "sums.jsonl", [{"problem": f"{i}+{4 - i}=?", "answer": "4"} for i in range(2)])
    config = Config(
        model=ModelConfig(path="org/model"),
        eval=EvalConfig(samples=3),
        benchmark={"sums": BenchmarkConfig(path=str(folder / "sums.jsonl"))},
        machine=MachineConfig(engine=Engine.api, **machine),
    )
    return evaluate(config, "org/model", folder / "scores")


@pytest.mark.parametrize("retries", [0, 2])
def test_an_endpoint_is_asked_as_often_as_is_allowed(tmp_path, retries):
    Full.asked = 0
    with served(Full) as address, pytest.raises(RuntimeError, match="refuses a request"):
        scores_of(tmp_path, api_url=address, api_retries=retries)
    assert Full.asked == 1 + retries


def test_an_endpoint_is_asked_for_its_model_by_several_at_once(tmp_path):
    """One request at a time would wait in vain for the other of its pair."""
    with served(Pairs) as address:
        result = scores_of(tmp_path, api_url=address, api_model="own", api_concurrency=2, api_retries=0)
    assert result["benchmarks"]["sums"]["score"] == 100
    assert (Pairs.asked, Pairs.most) == (["own"] * 6, 2)


@pytest.mark.parametrize("verdict", VerdictName)
def test_the_verdict_that_is_asked_for_makes_the_score(checkpoint, tmp_path, monkeypatch, verdict):
    Answers(monkeypatch)
    scored(checkpoint, tmp_path, verdict=verdict)
    found = read_json(tmp_path / "scores/scores.json")
    assert found["verdict"] == verdict
    assert found["benchmarks"]["sums"]["score"] == found["benchmarks"]["sums"][verdict]


def test_wandb_is_started_with_the_keys_of_the_tracker(tmp_path, monkeypatch):
    """Both of its runs, that of the cell and that of the table."""
    asked = []

    class Started(Exception):
        """It would go on to a server."""

    def init(**options) -> None:
        asked.append(options)
        raise Started

    monkeypatch.setattr(wandb, "init", init)
    tracker = TrackerConfig(name=TrackerName.wandb, mode=TrackerMode.online, project="mine", entity="us")
    config = Config(tracker=tracker, machine=MachineConfig(results=str(tmp_path)))
    config.loss, config.names.loss = {"_target_": "losslab.objectives.dft.DFT"}, "dft"
    config.model.path = config.dataset.path = "embedded"
    own = Cell.of(config)
    own.declare(config)
    order = follow.order(config, own)
    for started in (lambda: follow.report(order, lambda: True), lambda: follow.report_table(order)):
        with pytest.raises(Started):
            started()
    assert [(each["mode"], each["project"], each["entity"]) for each in asked] == [("online", "mine", "us")] * 2


def test_a_plan_checks_its_models_where_that_is_asked_for(monkeypatch):
    monkeypatch.setattr(plan, "show", lambda configs, job: 0)
    monkeypatch.setattr(plan_check, "show", lambda configs: 1)
    assert [sweep._plan([Config(plan=True, check=check)], None) for check in (False, True)] == [0, 1]


def test_a_table_has_its_sweeps_name_question_and_next_command(tmp_path, capsys):
    cell(tmp_path, "dft", 0, {"math500": 60.0})  # of the sweep "study"
    write_table(SweepConfig(name="study", question="Which wins?", next="losslab plan loss=dft"), str(tmp_path))
    assert "Which wins?" in (tmp_path / "tables/study/table.md").read_text()
    assert "next:    losslab plan loss=dft" in capsys.readouterr().out
