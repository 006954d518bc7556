"""From the keys of `loss` to the objective that a cell is trained with."""

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass, make_dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any, Literal, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from losslab.config.messages import among, did_you_mean, first_line, sentence
from losslab.keys import check_value
from losslab.objectives import Objective
from losslab.objectives.base import Base
from losslab.objectives.online import OnPolicy


def resolve(name: str, loss: Mapping[str, Any]) -> Objective | OnPolicy | Base:
    """The objective that `_target_` names, with the other keys as its parameters; `name` is that of its file.

    Raises ValueError for a name that is not an objective's or cannot be imported, and for a parameter that is unknown,
    missing, of another type, out of its bounds, or refused by the objective.
    """
    target = loss.get("_target_")
    if not target:
        raise ValueError(f"conf/loss/{name}.yaml names no class: add a `_target_` line")
    parameters = {key: value for key, value in loss.items() if key != "_target_"}
    return _instance(_class(name, str(target)), json.dumps(parameters, default=str))


@lru_cache(maxsize=1024)  # by the class itself: one that was edited and imported again is another
def _instance(cls: Any, loss: str) -> Objective | OnPolicy | Base:
    given = json.loads(loss)
    parameters, hints = {field.name: field for field in fields(cls)}, get_type_hints(cls)
    for key in set(given) - set(parameters):
        raise ValueError(f"unknown key loss.{key}{among(key, parameters)}")
    for key, field in parameters.items():
        if key not in given and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"loss.{key} has no value: set it")
    values = {key: _typed(f"loss.{key}", value, hints[key]) for key, value in given.items()}
    for key, value in values.items():
        check_value(f"loss.{key}", value, parameters[key].metadata)
    return cls(**values)


def _class(name: str, target: str) -> Any:
    module, _, attribute = target.rpartition(".")
    try:
        there = vars(import_module(module))
    except Exception as error:
        raise ValueError(f"loss={name}: {target} cannot be imported ({first_line(error)})") from None
    if attribute not in there:
        raise ValueError(f"loss={name}: {module} has no {attribute}{did_you_mean(attribute, there)}")
    cls = there[attribute]
    if not (isinstance(cls, type) and is_dataclass(cls) and issubclass(cls, Objective | OnPolicy | Base)):
        raise ValueError(f"loss={name}: {target} is not a dataclass that derives from Objective")
    return cls


def _typed(key: str, value: Any, hint: Any) -> Any:
    """The value in the type of the parameter, as a structured configuration would have it."""
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ValueError(f"{key}: invalid value {value!r}, expected one of {list(get_args(hint))}")
        return value
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key} is {value}: set it to a finite number")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(make_dataclass("Typed", [("value", hint)])), {"value": value})
        assert isinstance(merged, DictConfig)
        plain: Any = OmegaConf.to_container(merged)
        return plain["value"]
    except OmegaConfBaseException as error:
        raise ValueError(sentence(error).replace("value:", f"{key}:", 1)) from None
