"""What a key that takes one of several words may be."""

from enum import StrEnum


class Choice(StrEnum):
    """An enumeration whose YAML spelling is its name."""


class Corpus(Choice):
    corpus = "corpus"
    program_corpus = "program_corpus"
    picture_corpus = "picture_corpus"


class Selection(Choice):
    random = "random"
    first = "first"


class Turns(Choice):
    all = "all"
    last = "last"
    each = "each"


class AnswerEnd(Choice):
    eos = "eos"
    turn = "turn"


class Overlong(Choice):
    drop = "drop"
    truncate = "truncate"


class Precision(Choice):
    bf16 = "bf16"
    fp32 = "fp32"


class Normaliser(Choice):
    natural = "natural"
    answer_tokens = "answer_tokens"
    kept_tokens = "kept_tokens"
    weights = "weights"


class Reduction(Choice):
    batch = "batch"
    micro_batch = "micro_batch"


class NonFinite(Choice):
    stop = "stop"
    skip = "skip"


class Recompute(Choice):
    auto = "auto"
    none = "none"
    selective = "selective"
    full = "full"


class Sharding(Choice):
    full = "full"
    hybrid = "hybrid"


class Decay(Choice):
    matrices = "matrices"
    all = "all"


class Shape(Choice):
    cosine = "cosine"
    linear = "linear"
    constant = "constant"
    wsd = "wsd"


class VerdictName(Choice):
    official = "official"
    corrected = "corrected"


class Engine(Choice):
    auto = "auto"
    vllm = "vllm"
    transformers = "transformers"
    api = "api"


class Device(Choice):
    auto = "auto"
    cuda = "cuda"
    cpu = "cpu"


class TrackerName(Choice):
    none = "none"
    wandb = "wandb"
    tensorboard = "tensorboard"


class TrackerMode(Choice):
    auto = "auto"
    online = "online"
    offline = "offline"
    disabled = "disabled"


class Stage(Choice):
    all = "all"
    train = "train"
    score = "score"


class Gold(Choice):
    column = "column"
    boxed = "boxed"
    hashes = "hashes"
    any = "any"


class Rules(Choice):
    general = "general"
    math500 = "math500"
    minerva_math = "minerva_math"
    olympiadbench = "olympiadbench"
    gsm8k = "gsm8k"
    exact_match = "exact_match"
    code = "code"
    mathverse = "mathverse"
    mathvision = "mathvision"
    wemath = "wemath"
    stack_program = "stack_program"


class SampleRules(Choice):
    """Those of `Rules` by which answers to the questions of a data set are verified."""

    general = "general"
    code = "code"
    stack_program = "stack_program"


class End(Choice):
    rare = "rare"
    sure = "sure"
