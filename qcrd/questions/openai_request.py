"""Bodies of OpenAI's clients as bodies of ours: `supervised`, `hyperparameters`.

As its API has them (reference Fine-tuning, as read 2026-11-28), in both places for hyperparameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qcrd.errors import Invalid, NotFound
from qcrd.records.job import DataSummary
from qcrd.records.specs.spec import MethodName
from qcrd.records.specs.training_spec import NEW_DECODER_RATES, Hyperparameters
from qcrd.runtime.data_files.records import describe_type

Describe = Callable[[str], DataSummary]
"""What the file of a name has; `NotFound` or `Invalid` where there is none."""
AUTO = "auto"
NAMES = ("n_epochs", "batch_size", "learning_rate_multiplier")
OTHER_METHODS = ("dpo", "reinforcement")
DEFAULTS = {name: field.default for name, field in Hyperparameters.model_fields.items()}
BYTES_PER_TOKEN, MAX_LABEL_TOKENS = 3, 2048
"""A reply that is learned has so many tokens at most."""


def translate_request(
    body: Mapping[str, Any],
    describe: Describe,
    aliases: Mapping[str, str],
    gets_new_decoder: Callable[[str], bool] = lambda model: False,
) -> dict[str, Any]:
    """`body`, of which nothing is OpenAI's alone. `Invalid` for what is not offered here. A base
    that `gets_new_decoder` has other learning rates to multiply."""
    body = {name: value for name, value in body.items() if value is not None}
    if isinstance(body.get("model"), str):
        body["model"] = aliases.get(body["model"], body["model"])
    given = body.pop("hyperparameters", None)

    def read(own: Any, path: str) -> dict[str, Any]:
        return _read(own, path, lambda: gets_new_decoder(str(body.get("model"))))

    method = body.get("method")
    kind = method.get("type") if isinstance(method, Mapping) else None
    if kind in OTHER_METHODS:
        raise Invalid(
            f"`method.type`: `{kind}` is not offered here: `supervised` learns the replies of a "
            f"file, and {', '.join(f'`{name}`' for name in MethodName)} learn from rationales too",
            param="method.type",
            code="unsupported_method",
        )
    if kind == "supervised":
        assert isinstance(method, Mapping)
        own, path = _get_supervised(method)
        changes, more = read(own, path), read(given, "hyperparameters")
        for name in changes.keys() & more.keys():
            if changes[name] != more[name]:
                raise Invalid(
                    f"`hyperparameters` and `{path}` differ: give one of the two",
                    param="hyperparameters",
                    code="conflicting_fields",
                )
        changes |= more
        return body | {"method": _make_supervised(body, changes, describe)}
    if method is None and (given or _describe(body, describe).is_chat):
        return body | {"method": _make_supervised(body, read(given, "hyperparameters"), describe)}
    return _merge(body, read(given, "hyperparameters"))


def _get_supervised(method: Mapping[str, Any]) -> tuple[Any, str]:
    for name in method:
        if name not in ("type", "supervised"):
            raise Invalid(
                f"unknown key `method.{name}`", param=f"method.{name}", code="unknown_key"
            )
    supervised = method.get("supervised") or {}
    path = "method.supervised"
    if not isinstance(supervised, Mapping):
        raise Invalid(f"`{path}` must be an object", param=path)
    for name in supervised:
        if name != "hyperparameters":
            raise Invalid(
                f"unknown key `{path}.{name}`: it has `hyperparameters`; the fields of a task are "
                "in the methods of this server, such as `method.finetune`",
                param=f"{path}.{name}",
                code="unknown_key",
            )
    return supervised.get("hyperparameters"), f"{path}.hyperparameters"


def _read(given: Any, path: str, has_new_decoder: Callable[[], bool]) -> dict[str, Any]:
    """Our hyperparameters for OpenAI's; what is `auto` is left to the default."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise Invalid(f"`{path}` must be an object, not {describe_type(given)}", param=path)
    changes = dict[str, Any]()
    for name, value in given.items():
        param = f"{path}.{name}"
        if name not in NAMES:
            raise Invalid(
                f"unknown key `{param}`: there are {', '.join(NAMES)}; others are in "
                "`method` of this server, such as `method.qcrd.hyperparameters`",
                param=param,
                code="unknown_key",
            )
        if value is None or value == AUTO:
            continue
        is_whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        is_factor = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
        if not (is_factor if name == "learning_rate_multiplier" else is_whole):
            what = "a number above 0" if name == "learning_rate_multiplier" else "a whole number"
            raise Invalid(f"`{param}` must be `auto` or {what}, at least 1", param=param)
        match name:
            case "n_epochs":
                changes |= {"iterations": value, "iteration_steps": None}
            case "batch_size":
                changes["batch_size"] = value
            case _:
                changes |= _multiply_rates(value, NEW_DECODER_RATES if has_new_decoder() else {})
    return changes


def _multiply_rates(factor: float, rates: Mapping[str, float]) -> dict[str, float]:
    """The default rate, or those of a base that has others with their warm-up."""
    return {
        name: rate * factor if name.endswith("learning_rate") else rate
        for name, rate in (rates or {"learning_rate": DEFAULTS["learning_rate"]}).items()
    }


def _make_supervised(
    body: Mapping[str, Any], changes: dict[str, Any], describe: Describe
) -> dict[str, Any]:
    """Labels are learned, and where the file has rationales of theirs, these too: without
    negatives and a judge, which nobody asked for."""
    data = _describe(body, describe)
    tokens = min(MAX_LABEL_TOKENS, -(-data.longest_label // BYTES_PER_TOKEN))
    hyperparameters = {
        "max_label_tokens": max(DEFAULTS["max_label_tokens"], tokens),
        **{name: value for name, value in changes.items() if value is not None},
    }
    settings: dict[str, Any] = {"hyperparameters": hyperparameters}
    if not data.outputs:
        return {"type": "finetune", "finetune": settings}
    settings["rationales"] = {"import": body.get("training_file")}
    return {"type": "dss", "dss": settings}


def _describe(body: Mapping[str, Any], describe: Describe) -> DataSummary:
    """An unknown file is refused later, by the name of its field."""
    file_id = body.get("training_file")
    try:
        return describe(file_id) if isinstance(file_id, str) else DataSummary()
    except (Invalid, NotFound):
        return DataSummary()


def _merge(body: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`changes` in the body's own method; `Invalid` where both say something."""
    if not changes:
        return body
    method = dict(body["method"]) if isinstance(body.get("method"), Mapping) else {}
    kind = method.get("type", MethodName.QCRD.value)
    settings = dict(method.get(kind) or {}) if isinstance(method.get(kind), Mapping) else {}
    own = settings.get("hyperparameters") or {}
    for name in changes:
        if isinstance(own, Mapping) and own.get(name, changes[name]) != changes[name]:
            raise Invalid(
                f"`hyperparameters` and `method.{kind}.hyperparameters.{name}` differ: give one",
                param="hyperparameters",
                code="conflicting_fields",
            )
    settings["hyperparameters"] = {**own, **changes}
    return body | {"method": {**method, "type": kind, kind: settings}}
