"""What composes but cannot run is refused here, before anything is loaded."""

from pathlib import Path
from typing import Any

from losslab.composition.check_data import check_data, check_rules
from losslab.composition.check_online import check_online
from losslab.composition.check_optimizer import check_optimizer
from losslab.config.benchmark import WITH_OPTIONS, BenchmarkConfig
from losslab.config.choices import Device, Gold, Rules, TrackerName
from losslab.config.forgetting import of_new_task
from losslab.config.machine import AUTO, ENDPOINT_URL, MachineConfig
from losslab.config.paths import names_folder
from losslab.config.prompt import CHAT
from losslab.config.schema import (
    BASE,
    EMBEDDED,
    EMBEDDED_LARGE,
    EMBEDDED_MODELS,
    EMBEDDED_VISION,
    Config,
    Engine,
    Normaliser,
    Precision,
    Reduction,
)
from losslab.config.sweep import SweepConfig
from losslab.distributed import gpus
from losslab.distributed.environment import is_worker, node_count
from losslab.keys import check_bounds
from losslab.objectives.online import OnPolicy

TUNED = ("model", "dataset", "loss", "adapter", "optimizer", "scheduler", "train")  # groups that sweep.tune may name
CHECKPOINT = ("config.json", "adapter_config.json")


def check_sweep(sweep: SweepConfig) -> None:
    """Refuse a sweep that losslab cannot run, or whose name cannot be a folder of results/tables."""
    if not names_folder(sweep.name):
        raise ValueError(f"sweep.name={sweep.name!r} cannot name a folder: write letters, digits, - and _")
    if sweep.needs:
        raise ValueError(f"{sweep.name} cannot be run: losslab lacks {sweep.needs} (sweep.needs)")


def check_tune(config: Config) -> None:
    """Refuse a `sweep.tune` that does not name a training setting with a value.

    `loss.*` keys are accepted unchecked, since not every objective of a sweep has them.
    """
    if (key := config.sweep.tune) is None:
        return
    group, _, rest = key.partition(".")
    value: Any = getattr(config, group, None)
    for part in rest.split("."):
        value = value.get(part) if isinstance(value, dict) else getattr(value, part, None) if value else None
    if group not in TUNED or not rest or (value is None and group != "loss"):
        raise ValueError(
            f"sweep.tune={key} is not a training key with a value: name one such as optimizer.lr, "
            "train.epochs or a parameter of the objective such as loss.alpha"
        )


def check_machine(machine: MachineConfig) -> None:
    """Refuse words other than `auto` where a key takes `auto`, a number or a truth value."""
    check_endpoint(machine)
    tokens = machine.micro_batch_tokens
    if isinstance(tokens, bool) or (isinstance(tokens, str) and tokens != AUTO):
        raise ValueError(f"machine.micro_batch_tokens is {tokens}: set it to auto or a whole number")
    for key in ("compile", "reshard"):
        if isinstance(value := getattr(machine, key), str) and value != AUTO:
            raise ValueError(f"machine.{key} is {value}: set it to auto, true or false")


def check_endpoint(machine: MachineConfig) -> None:
    """Refuse an address that is missing or holds a secret, and keys of an endpoint without machine.engine=api."""
    if machine.engine != Engine.api:
        for name in ("url", "model", "prices"):
            if getattr(machine, f"api_{name}"):
                raise ValueError(f"machine.api_{name} is for an endpoint: set machine.engine=api too, or leave it out")
        return
    if not machine.api_url:
        raise ValueError("machine.engine=api needs an address: set machine.api_url=http://localhost:8000/v1 or another")
    if not ENDPOINT_URL.fullmatch(machine.api_url):
        raise ValueError(
            "machine.api_url must begin with http:// or https:// and hold no user, key or query: it stands in records, "
            "and the key is taken from the environment variable OPENAI_API_KEY"
        )
    if len(machine.api_prices) not in (0, 2) or min(machine.api_prices, default=0) < 0:
        raise ValueError("machine.api_prices takes two prices, of prompts and of answers: write [0.25,2.0], or []")


def check(config: Config) -> None:
    """Refuse, with one sentence, what composes but cannot run."""
    check_sweep(config.sweep)
    check_tune(config)
    check_bounds(config)
    if config.check and not config.plan:
        raise ValueError("check=true is for a plan, as in losslab plan check=true: a training checks by itself")
    check_prompts(config)
    check_examples(config)
    if not config.benchmark:
        raise ValueError("no benchmark is chosen: name at least one, as in benchmark=[math500]")
    if config.tracker.checkpoints and config.tracker.name != TrackerName.wandb:
        raise ValueError(
            f"tracker={config.tracker.name} keeps no models: leave tracker.checkpoints out, or set tracker=wandb"
        )
    check_model_folder("model.path", config.model.path)
    check_machine(config.machine)
    check_rules(config.dataset)
    if not config.trains:
        return
    if config.served:
        raise ValueError(
            "machine.engine=api scores a served model, not one trained here: leave it out, or set loss=base"
        )
    if config.names.loss == BASE:
        raise ValueError("loss=base trains nothing: choose another loss, or leave loss._target_ out")
    check_data(config)
    train = config.train
    if train.reduction == Reduction.micro_batch and train.micro_batch is None:
        raise ValueError("train.reduction=micro_batch depends on how rows are grouped: set train.micro_batch")
    if train.weights == Precision.bf16 and train.precision == Precision.fp32:
        raise ValueError("train.weights=bf16 cannot be computed with in float32: set train.precision=bf16")
    if config.adapter.rank and not config.adapter.target_modules:
        raise ValueError(
            f"adapter.rank={config.adapter.rank} and adapter.target_modules is empty: name the linear layers to adapt, "
            "or choose adapter=lora"
        )
    if config.adapter.rank and not train.freeze_vision:
        raise ValueError(
            "train.freeze_vision=false trains all weights, and adapter those of the decoder: leave one out"
        )
    check_optimizer(config.optimizer)
    check_kl_to_base(config)
    if isinstance(config.objective, OnPolicy):
        check_online(config, config.objective)
    check_objective(config)


# What an objective may need of the data: the key of its column, and what a message says where it is missing.
COLUMNS = {
    "pairs": ("rejected_column", "pairs of answers: set dataset.rejected_column"),
    "reward": ("reward_column", "answers with rewards: set dataset.reward_column, or dataset=self_graded"),
    "token_weight": ("weights_column", "a weight of each token: set dataset.weights_column"),
}


def check_objective(config: Config) -> None:
    """Refuse a configuration that lacks what the objective needs, or has what it does not read."""
    train = config.train
    check_reference(config)
    low, high = (getattr(config.objective, name, None) for name in ("low", "high"))
    if low is not None and high is not None and low >= high:  # a clamp would make every weight `high`
        raise ValueError(f"loss.low={low} is not below loss.high={high}: exchange or change them")
    needs = config.objective.needs
    whole = "reference_distribution" in needs or getattr(config.objective, "row_term", None)
    if whole and train.normaliser in (Normaliser.weights, Normaliser.kept_tokens):
        raise ValueError(
            f"train.normaliser={train.normaliser} counts weights of target tokens, and loss={config.names.loss} acts "
            "on others too: choose natural or answer_tokens"
        )
    for need, (column, lacks) in COLUMNS.items():
        if (need in needs) != (getattr(config.dataset, column) is not None):
            raise ValueError(
                f"loss={config.names.loss} needs {lacks}"
                if need in needs
                else f"loss={config.names.loss} does not use dataset.{column}: leave it out"
            )
    for what in needs & {"pairs", "reward"}:
        if train.normaliser == Normaliser.weights:
            raise ValueError(f"train.normaliser=weights does not go with {what}, whose weights cancel: choose another")
    if train.updates > 1 and "old_logp" not in needs:
        raise ValueError(f"loss={config.names.loss} takes one step on each batch: leave train.updates at 1")


def check_examples(config: Config) -> None:
    """Refuse a prompt that leaves out a problem or an answer, and turns without a chat template."""
    prompt, texts = config.prompt, {"prompt.question": ("{problem}",), "prompt.example": ("{problem}", "{answer}")}
    for key, needed in texts.items():
        if missing := [part for part in needed if part not in getattr(prompt, key.partition(".")[2])]:
            raise ValueError(f"{key} must be a text that contains {' and '.join(missing)}")
    if prompt.turns and not prompt.examples:
        raise ValueError("prompt.turns=true is for worked examples: set prompt.examples, or leave it out")
    if prompt.turns and config.scoring_template != CHAT:
        raise ValueError("prompt.turns=true needs the chat template: set prompt.template=chat, or leave it out")
    lists = {"prompt": prompt.examples} | {f"benchmark.{name}": b.examples for name, b in config.benchmark.items()}
    for key, examples in lists.items():
        for i, example in enumerate(examples):
            if not (example.problem.strip() and example.answer.strip()):
                raise ValueError(f"{key}.examples.{i} is empty: give it a problem and an answer, or leave it out")


def _check_task(name: str, about: BenchmarkConfig, served: bool) -> None:
    """Refuse, for a task of lm_eval, an endpoint and what the task decides itself."""
    if served:
        raise ValueError(
            f"benchmark {name} is a task of lm_eval, which needs the model itself: leave machine.engine=api out"
        )
    for key in ("examples", "prompt", "instruction", "images"):
        if getattr(about, key):
            why = "which shows no images" if key == "images" else "whose prompt is its own"
            raise ValueError(f"benchmark {name} is a task of lm_eval, {why}: leave {key} out")


def check_prompts(config: Config) -> None:
    """Refuse a prompt without a place for the question, and a benchmark whose gold and rules do not go together."""
    prompts = {"model.train_prompt": config.model.train_prompt, "model.eval_prompt": config.model.eval_prompt}
    prompts |= {"dataset.template": config.dataset.template or "chat", "prompt.template": config.scoring_template}
    prompts |= {f"benchmark.{name}.prompt": about.prompt or "chat" for name, about in config.benchmark.items()}
    for key, template in prompts.items():
        if template != "chat" and "{problem}" not in template:
            raise ValueError(f"{key} must be `chat` or a text that contains {{problem}}")
    for name, about in config.benchmark.items():
        if about.task is not None:
            _check_task(name, about, config.served)
        if about.metric and about.task is None:
            raise ValueError(f"benchmark.{name}.metric is for tasks of lm_eval: leave it out")
        if about.options and about.rules not in WITH_OPTIONS:
            rules = ", ".join(WITH_OPTIONS)
            raise ValueError(f"benchmark.{name}.options is for the rules {rules}: set one of them, or leave it out")
        if (about.gold == Gold.any) != (about.rules == Rules.exact_match):
            raise ValueError(f"benchmark.{name}: gold=any and rules=exact_match go together: set both or neither")
        if about.versions_of is not None and (about.task is not None or about.rules == Rules.wemath):
            raise ValueError(
                f"benchmark.{name}.versions_of is not for tasks of lm_eval and multi-step problems: leave it out"
            )
        if (about.versions_of is None) != (about.original is None):
            raise ValueError(f"benchmark.{name}: versions_of and original go together: set both or neither")


def check_kl_to_base(config: Config) -> None:
    """Refuse kl_to_base unless answers are sampled at temperature 1 and top_p 1, on some benchmark that has samples."""
    if config.machine.kl_to_base is None:
        return
    if (config.eval.temperature, config.eval.top_p) != (1.0, 1.0):
        raise ValueError(
            f"machine.kl_to_base is the KL of what the model samples at temperature 1, and eval.temperature="
            f"{config.eval.temperature:g}, eval.top_p={config.eval.top_p:g} sample something else: set both to 1, or "
            "leave machine.kl_to_base out"
        )
    if not of_new_task(config.benchmark):
        raise ValueError(
            "machine.kl_to_base needs sampled answers to texts, and no benchmark here has them but those of forgetting "
            "and of lm_eval: add one, such as math500, or leave it out"
        )


def check_reference(config: Config) -> None:
    """Refuse a reference that the objective does not read, and one that is missing or unavailable."""
    loss, path, needs = config.names.loss, config.reference.path, config.objective.needs
    if path is None:
        if "teacher" in needs:
            raise ValueError(f"loss={loss} learns from another model: set reference.path to a teacher")
        if config.reference.revision is not None:
            raise ValueError("reference.revision is for another model: set reference.path too, or leave it out")
        return
    if not needs & {"reference_logp", "reference_distribution", "reference_top"}:
        raise ValueError(f"loss={loss} does not use reference.path: leave it out")
    if base := {EMBEDDED: "tiny", EMBEDDED_VISION: "tiny_vision"}.get(path):
        raise ValueError(f"reference.path={path} is the base of model={base}: leave it out, or name a folder")
    if path == EMBEDDED_LARGE and config.model.path not in (EMBEDDED, EMBEDDED_LARGE):
        raise ValueError("reference.path=embedded_large teaches the embedded task: set model=tiny, or name another")
    check_model_folder("reference.path", path)


def check_model_folder(key: str, name: str) -> None:
    """Refuse a folder that is missing or holds no checkpoint, before it is read for the identity of the cell."""
    if name in EMBEDDED_MODELS:
        return
    if not name:
        raise ValueError(f"{key} is empty: set it to a hub id or the folder of a checkpoint")
    path = Path(name)
    if not path.is_dir():
        if path.is_absolute() or name.startswith(".") or Path(path.parts[0]).is_dir():
            raise ValueError(f"{key}={name} is not a folder: check the path")
    elif not any((path / file).is_file() for file in CHECKPOINT):
        raise ValueError(f"{key}={name} holds no {' or '.join(CHECKPOINT)}: name the folder of a checkpoint")


def check_device(machine: MachineConfig) -> None:
    """Refuse a GPU that this machine does not have; a job of a cluster may have one."""
    if machine.device == Device.cuda and not gpus.count():
        raise ValueError("machine.device=cuda, but no GPU is visible here: set machine.device=auto or cpu")


def check_alone(what: str) -> None:
    """Refuse torchrun and srun with several processes, which would all do `what`; it starts its own workers."""
    if is_worker() or node_count() > 1:
        raise ValueError(f"{what} starts workers of its own: run it as one process, without torchrun or srun")
