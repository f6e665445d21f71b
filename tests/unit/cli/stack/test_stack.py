"""The embedded stack's pieces that need no process."""

from __future__ import annotations

import configparser
import json
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from qcrd.cli.stack import environment, ports, procfile, supervisord
from qcrd.cli.stack.home import MAX_SOCKET_PATH_BYTES, StackHome, install_base_model
from qcrd.errors import Conflict, Invalid
from tests.conftest import needed

PORTS = {name: 20_000 + place for place, name in enumerate(ports.PORT_NAMES)}


@pytest.fixture
def home(tmp_path: Path) -> StackHome:
    made = StackHome(tmp_path / "home")
    made.create_folders()
    return made


def test_ports_are_free_distinct_and_those_of_the_last_run() -> None:
    first = ports.choose_ports(ports.PORT_NAMES, preferred={})
    assert len(set(first.values())) == len(ports.PORT_NAMES)
    assert ports.choose_ports(ports.PORT_NAMES, preferred=first) == first
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        moved = ports.choose_ports(["api", "s3"], preferred={"api": number, "s3": first["s3"]})
        assert moved["api"] != number
        assert moved["s3"] == first["s3"]
        with pytest.raises(Conflict, match=f"--port: port {number}"):
            ports.choose_ports(
                ["api"], preferred={}, requested=ports.read_requested_ports({}, number)
            )


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("QCRD_API_PORT", "api"),
        ("QCRD_STUDENTS_PORT", "students"),
        ("QCRD_DISCRIMINATOR_PORT", "discriminator"),
        ("PORT", "teacher"),
    ],
)
def test_a_port_variable_wins_over_the_last_run(variable: str, name: str, home: StackHome) -> None:
    *ours, number = ports.choose_ports([*ports.PORT_NAMES, "wanted"], preferred={}).values()
    last = dict(zip(ports.PORT_NAMES, ours, strict=True))
    requested = ports.read_requested_ports({variable: str(number)}, None)
    chosen = ports.choose_ports(ports.PORT_NAMES, preferred=last, requested=requested)
    assert chosen == last | {name: number}
    built = environment.build_environment(
        home, chosen, procfile.get_bundled_path(), {variable: str(number)}
    )
    assert built[variable] == str(number)


def test_the_option_wins_over_the_variable_and_a_wrong_variable_is_named() -> None:
    requested = ports.read_requested_ports({"QCRD_API_PORT": "8001", "PORT": ""}, 8002)
    assert requested == {"api": (8002, "--port")}
    with pytest.raises(Invalid, match="QCRD_API_PORT: 'x' is not a port"):
        ports.read_requested_ports({"QCRD_API_PORT": "x"}, None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        requested = ports.read_requested_ports({"QCRD_API_PORT": str(number)}, None)
        with pytest.raises(Conflict, match=f"QCRD_API_PORT: port {number}"):
            ports.choose_ports(["api"], preferred={}, requested=requested)


def test_every_variable_of_the_procfile_is_set_and_nothing_listens_beyond_loopback(
    home: StackHome,
) -> None:
    commands = procfile.read_procfile(procfile.get_bundled_path())
    surroundings = environment.build_environment(home, PORTS, procfile.get_bundled_path(), {})
    lines = {name: procfile.build_argv(command, surroundings) for name, command in commands.items()}
    assert list(lines) == [
        "valkey",
        "seaweedfs",
        "teacher",
        "students",
        "discriminator",
        "trainer",
        "api",
        "api-worker",
    ]
    assert lines["valkey"][:5] == ["valkey-server", "--bind", "127.0.0.1", "--port", "20001"]
    assert {"-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3.port=20002"} <= set(lines["seaweedfs"])
    hosts = [value for key, value in surroundings.items() if key.endswith("_HOST")]
    assert set(hosts) == {"127.0.0.1"}
    assert len(hosts) == 4


def test_the_user_s_own_choices_win_and_strangers_are_left_out(home: StackHome) -> None:
    teachers = '{"default": {"url": "http://theirs"}}'
    theirs = {"MODEL_ID": "Qwen/Qwen3-0.6B", "QCRD_TEACHERS": teachers, "API_KEY": "x", "PORT": "1"}
    built = environment.build_environment(home, PORTS, procfile.get_bundled_path(), theirs)
    assert (built["MODEL_ID"], built["QCRD_TEACHERS"]) == ("Qwen/Qwen3-0.6B", teachers)
    assert built["PORT"] == str(PORTS["teacher"])
    assert "API_KEY" not in built
    default = environment.build_environment(home, PORTS, procfile.get_bundled_path(), {})
    teacher = json.loads(default["QCRD_TEACHERS"])["default"]
    assert teacher["url"] == f"http://127.0.0.1:{PORTS['teacher']}"


def test_an_unpacked_default_teacher_runs_from_there_unless_the_user_names_another(
    home: StackHome,
) -> None:
    def build(**inherited: str) -> tuple[dict[str, str], dict[str, Any]]:
        built = environment.build_environment(
            home, PORTS, procfile.get_bundled_path(), dict(inherited)
        )
        return built, json.loads(built["QCRD_TEACHERS"])["default"]

    packed, teacher = build()
    assert not {"MODEL_ID", "TEACHER_SLOTS", "MAX_TOTAL_TOKENS"} & packed.keys()
    assert "concurrency" not in teacher
    unpacked = home.models / environment.UNPACKED_TEACHER
    unpacked.mkdir(parents=True)
    (unpacked / "config.json").write_text("{}")
    built, teacher = build()
    assert built["MODEL_ID"] == unpacked.name
    assert int(built["TEACHER_SLOTS"]) == teacher["concurrency"]
    fewer, teacher = build(TEACHER_SLOTS="7")
    assert fewer["TEACHER_SLOTS"] == "7"
    assert "concurrency" not in teacher
    for chosen in [
        {"MODEL_ID": "smollm2"},
        {"TEACHER_ENGINE": "gguf"},
        {"TEACHER_UPSTREAM_URL": "http://theirs"},
        {"QCRD_MODELS_DIR": str(home.data)},  # it does not lie there
    ]:
        theirs, teacher = build(**chosen)
        assert theirs.get("MODEL_ID") == chosen.get("MODEL_ID")
        assert "TEACHER_SLOTS" not in theirs
        assert "concurrency" not in teacher


def test_slots_of_the_default_teacher_leave_three_quarters_of_the_memory() -> None:
    counts = [environment.count_teacher_slots(free and free * 2**30) for free in (None, 1, 8, 64)]
    assert counts == [16, 16, 45, 96]


def test_the_store_s_keys_are_made_once_and_private(home: StackHome) -> None:
    keys = home.load_store_keys()
    assert home.load_store_keys() == keys
    mode = (home.data / "store-keys.json").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    assert len(keys.secret_key) == 40
    home.write_valkey_config()
    config = home.data / "valkey.conf"
    assert config.read_text() == f"requirepass {keys.redis_password}\n"
    assert stat.S_IMODE(config.stat().st_mode) == 0o600


def test_a_home_from_before_gets_the_secrets_it_lacks_once(home: StackHome) -> None:
    (home.data / "store-keys.json").write_text('{"access_key": "a", "secret_key": "s"}')
    keys = home.load_store_keys()
    assert (keys.access_key, keys.secret_key) == ("a", "s")
    assert len(keys.redis_password) == len(keys.signing_key) == 40
    assert home.load_store_keys() == keys


def test_a_long_home_gets_a_short_socket_that_is_its_own(tmp_path: Path) -> None:
    homes = [StackHome(tmp_path / ("x" * 120) / name) for name in "ab"]
    paths = [home.socket_path() for home in homes]
    assert all(len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES for path in paths)
    assert len(set(paths)) == 2
    assert stat.S_IMODE(paths[0].parent.stat().st_mode) == 0o700
    for path in paths:
        path.parent.rmdir()


def test_a_home_that_cannot_be_written_names_the_setting(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(Invalid, match="QCRD_HOME"):
        StackHome(blocked / "home").create_folders()
    with pytest.raises(Invalid, match="QCRD_HOME"), StackHome(blocked / "home").lock():
        pass


def test_a_nearly_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 2**20})())
    with pytest.raises(Invalid, match="has 1 MiB free"):
        StackHome(tmp_path / "home").create_folders()


def test_a_record_that_a_crash_cut_short_counts_as_none(home: StackHome) -> None:
    (home.run / "stack.json").write_text('{"pid": 1')
    assert home.read_record() is None


def test_starting_and_stopping_exclude_each_other(home: StackHome) -> None:
    with home.lock(), pytest.raises(Conflict, match="at work"), home.lock():
        pass


def test_the_base_model_is_unpacked_once(tmp_path: Path) -> None:
    needed("all_minilm_l6_v2")
    assert install_base_model(tmp_path)
    assert (tmp_path / "all-MiniLM-L6-v2" / "model.safetensors").exists()
    assert not install_base_model(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["all-MiniLM-L6-v2"]


@pytest.mark.parametrize("text", ["", "# nothing\n", "a b\n", "a:\n", "a: x\na: y\n"])
def test_a_procfile_that_is_wrong(tmp_path: Path, text: str) -> None:
    path = tmp_path / "Procfile"
    path.write_text(text)
    with pytest.raises(Invalid):
        procfile.read_procfile(path)


def test_a_value_is_never_split_and_a_variable_never_forgotten() -> None:
    assert procfile.build_argv("run --in ${A}/b", {"A": "two words"}) == [
        "run",
        "--in",
        "two words/b",
    ]
    with pytest.raises(Invalid, match="'B'"):
        procfile.build_argv("run ${B}", {})


def test_the_supervisor_s_configuration_holds_no_secret_and_no_home(home: StackHome) -> None:
    text = supervisord.render_config(["valkey", "api"], Path("/tmp/100%/s.sock"))
    read = configparser.RawConfigParser()
    read.read_string(text)
    assert read["unix_http_server"]["file"] == "/tmp/100%%/s.sock"
    assert read["group:servers"]["programs"] == "valkey"
    assert read["program:valkey"]["autostart"] == "true"
    assert read["program:api"]["autostart"] == "false"
    assert read["program:api"]["stdout_logfile"] == "../logs/api.log"
    assert str(home.root) not in text
    patience = {supervisord.STOP_TIMEOUT_SECONDS[group] for group in ("servers", "services")}
    assert sum(patience) <= 10


def test_configured_teachers_stand_beside_the_stacks_own(tmp_path: Path) -> None:
    def build(configured: str) -> str:
        home = StackHome(tmp_path)
        home.create_folders()
        inherited = {"QCRD_TEACHERS": configured}
        path = procfile.get_bundled_path()
        return environment.build_environment(home, PORTS, path, inherited)["QCRD_TEACHERS"]

    theirs = {"url": "https://api.openai.com/v1", "api": "openai", "model": "m"}
    assert set(json.loads(build(json.dumps({"gpt": theirs})))) == {"default", "gpt"}
    assert json.loads(build(json.dumps({"default": theirs}))) == {"default": theirs}
    assert build("{") == "{"
