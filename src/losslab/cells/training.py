"""The models of a cell: the one it starts from, its reference, and the one that it trains."""

import hashlib
import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from losslab.cells.measurements import check_answers
from losslab.config.log import log
from losslab.config.messages import under_key
from losslab.config.schema import (
    EMBEDDED,
    EMBEDDED_MODELS,
    EMBEDDED_VISION,
    Config,
    DatasetConfig,
    ModelConfig,
    Names,
    OptimizerConfig,
    Precision,
    ReferenceConfig,
    TrainConfig,
)
from losslab.data import held_out_rows
from losslab.data.batch_sampler import RandomBatchSampler
from losslab.data.examples import Examples, prepare
from losslab.data.mismatched import mismatched
from losslab.data.processors import reads_images
from losslab.data.tokenise import Tokeniser
from losslab.distributed.environment import is_main_process
from losslab.distributed.launch import launch
from losslab.distributed.process_group import decide_on_main
from losslab.files.content import content
from losslab.files.json_files import read_json, write_json
from losslab.files.locks import lock
from losslab.files.record_names import RECORD_VERSION
from losslab.models import lora, merged_adapters
from losslab.models.loading import (
    check_tokens,
    check_unquantised,
    check_vocabulary,
    load_config,
    load_tokenizer,
    structure,
)
from losslab.models.processors import image_inputs
from losslab.objectives import Objective
from losslab.objectives.online import PPO, OnPolicy
from losslab.online import questions
from losslab.online.trainers import check_value_model
from losslab.online.worker import train as train_online
from losslab.planning import cost
from losslab.planning.architecture import count_parameters, describe
from losslab.planning.memory import on_device
from losslab.planning.sizing import settings, sized
from losslab.records.identity import identity
from losslab.training.checkpoints import clear
from losslab.training.layout_file import MEASURED_STEPS
from losslab.training.loop import measure_reference, train
from losslab.training.optimizer import check_schedule
from losslab.training.reference_logps import files as reference_files


def base_model(config: Config) -> ModelConfig:
    """The model to start from. An adapter is merged; the embedded model is pre-trained here, once, by the same loop.

    The recipe of that pre-training is in the model's YAML: whatever a sweep varies, its cells start from the same base.
    """
    model = config.model
    if model.path not in EMBEDDED_MODELS:
        cache = Path(config.machine.results) / "cache"
        return replace(model, path=merged_adapters.merged(model.path, cache, model.trust_remote_code))
    seed = model.pretrain_seed
    assert seed is not None, "Config.seeded gives it one"
    frozen = model.path != EMBEDDED_VISION  # whose tower learns to see
    adam = {"betas": [0.9, 0.95], "eps": 1e-8, "fused": True}
    recipe = Config(
        model=model,
        dataset=DatasetConfig(path=EMBEDDED, split=model.pretrain_split, rows=model.pretrain_rows, seed=seed),
        loss={"_target_": "losslab.objectives.sft.SFT"},
        optimizer=OptimizerConfig("torch.optim.AdamW", model.pretrain_learning_rate, weight_decay=0.01, arguments=adam),
        train=TrainConfig(batch_size=model.pretrain_batch, precision=Precision.fp32, freeze_vision=frozen),
        names=Names(model="embedded", dataset="corpus", loss="sft", eval=""),
        machine=replace(config.machine, export_steps=None, keep_every=None),
        seed=seed,
    )
    folder = Path(config.machine.results) / "cache" / "models" / identity(recipe)[:16]
    with lock(folder) if is_main_process() else nullcontext():
        if decide_on_main(config.machine, lambda: not (folder / "model").exists()):
            train_model(recipe, folder)
        elif is_main_process():
            clear(folder / "checkpoints", None)  # as `tidy` does
    return replace(model, path=str(folder / "model"))


def merged_reference(config: Config) -> ReferenceConfig:
    """The reference with the path of a whole checkpoint, which `base_model` makes."""
    if config.reference.path is None:
        return config.reference
    with under_key("reference.path"):
        return replace(config.reference, path=base_model(replace(config, model=config.reference_model)).path)


def train_model(config: Config, folder: Path) -> None:
    """Tokenise the data and train into `folder`, whose `model` appears once training is complete."""
    online = isinstance(config.objective, OnPolicy)
    data, held_out = decide_on_main(config.machine, lambda: prepared(config, folder))
    first, steps = ([], None) if online else first_steps(config, Examples.load(Path(data)))
    config = sized(config, steps and steps * cost.step_tokens(config))  # as many as the plan counts
    if is_main_process():
        file = folder / "layout.json"
        memory = {"planned_memory": planned_memory(config, first)} if first else {}
        layout, before = settings(config.machine) | memory, read_json(file)
        if all(before.get(key) == value for key, value in layout.items()):  # else its measurement is of another layout
            layout = before | layout
        write_json(file, layout)
    if online:
        launch(train_online, config, data, str(folder), machine=config.machine, logs=folder / "logs")
        return
    rows = (held_out, _reference(config, held_out)) if held_out else None
    arguments = (config, data, str(folder), _reference(config, data), rows)
    launch(train, *arguments, machine=config.machine, logs=folder / "logs")


def first_steps(config: Config, examples: Examples) -> tuple[list[int], int]:
    """The tokens of the steps whose memory is measured, and how many steps there are."""
    sampler = RandomBatchSampler.of(config.train, config.seed, examples)
    return sampler.tokens(examples.units, MEASURED_STEPS), sampler.steps


def planned_memory(config: Config, steps: list[int]) -> float | None:
    """The plan's estimate of the peak of these steps on each device, in bytes."""
    architecture = describe(config)
    parameters = count_parameters(architecture, config.model.trust_remote_code)
    return on_device(config, architecture, parameters, steps=steps)


def prepared(config: Config, folder: Path) -> tuple[str, str | None]:
    """The folders of the training and held-out data, created if missing; data.json describes them.

    Raises ValueError for data that cannot be trained.
    """
    cache, about, lines = Path(config.machine.results) / "cache", dict[str, Any](), list[str]()
    tokenizer, held_out = load_tokenizer(config.model), None
    check_unquantised(config.model)
    if isinstance(config.objective, PPO):
        check_value_model(config)
    if not config.train.freeze_vision and not reads_images(load_config(config.model)):
        raise ValueError("train.freeze_vision=false is for a model that reads images: leave it out")
    if config.adapter.rank:
        lora.Targets.of(structure(config.model), config.adapter)
    if config.reference.path is not None:
        with under_key("reference.path"):
            check_unquantised(config.reference_model)
            check_vocabulary(config.model, config.reference_model)
    model = replace(config.model, train_prompt=config.train_prompt)
    tokeniser = Tokeniser(model, config.dataset, tokenizer, image_inputs(config.model))
    if isinstance(config.objective, OnPolicy):
        data, report, steps = questions.prepare(config, tokenizer, cache)
        if config.machine.probabilities:  # of the answers in the data, which the training does not need
            check_answers(tokeniser, config.train, cache)
    else:
        examples = Examples.load(data := prepare(tokeniser, config.train, cache))
        check_tokens(int(examples.tokens.max()), tokenizer, config.model)
        if "mismatched_kl" in config.objective.needs:
            mismatched(examples)  # raises ValueError if there are none
        report, lines = examples.report, examples.notes
        about |= {"notes": lines} if lines else {}
        steps = RandomBatchSampler.of(config.train, config.seed, examples).steps
        if config.dataset.validation is not None:
            held_out = prepare(tokeniser, config.train, cache, held_out=True)
            about["validation"], sentences = held_out_rows.describe(Examples.load(held_out), examples)
            lines = [*lines, *sentences]
    if steps == 0:
        raise ValueError("the rows do not fill one batch: lower train.batch_size or take more of them")
    check_schedule(config.scheduler, steps)
    if config.adapter.rank and config.train.weights == Precision.bf16:
        lines = [*lines, "train.weights=bf16 is for training all weights: adapters are held in float32"]
    write_json(folder / "data.json", report | {"version": RECORD_VERSION, "steps": steps} | about)
    for line in (", ".join(f"{v:,} {k}" for k, v in report.items()), *lines):
        log.info(f"{config.names.dataset}: {line}")
    return str(data), str(held_out) if held_out else None


def _reference(config: Config, data: str) -> str:
    """The file of the reference's log-probabilities of some examples. Training measures those of its own
    base; another model's are measured here, in processes that hold that model alone, since memory may be short."""
    model = config.reference_model
    about = [content(model.path), model.revision, Path(data).name, str(config.train.precision)]
    name = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    file = Path(config.machine.results) / "cache" / "reference" / f"{name}.npy"
    assert isinstance(config.objective, Objective)
    kept = reference_files(config.objective, file).values()
    if config.reference.path is not None and kept:
        with lock(file.with_suffix(""), quiet=True) if is_main_process() else nullcontext():
            if decide_on_main(config.machine, lambda: not all(path.exists() for path in kept)):
                launch(measure_reference, config, data, str(file), machine=config.machine, logs=file.with_suffix(""))
    return str(file)
