"""What is refused at the gateway's door, before any route sees it: each in the one envelope."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from qcrd.errors import Invalid
from services.api.http import strict_json
from tests.unit.api.gateway_client import Here, lines, refused, sums

JOBS = "/v1/fine_tuning/jobs"
JSON = {"content-type": "application/json"}


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path / "models")


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b'{"model": NaN}', "broken_json", None),
        (b'{"seed": -Infinity}', "broken_json", None),
        (b'{"seed": 1e999}', "invalid_value", "seed"),
        (b'{"seed": 1' + b"0" * 400 + b"}", "invalid_value", "seed"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "broken_json", None),
        (b'{"model": "a", "model": "b"}', "broken_json", None),
        (b'{"method": {"type": "qcrd", "type": "dss"}}', "broken_json", None),
        (b'{"model": "\\ud800"}', "not_utf8", "model"),
        (b'{"metadata": {"\\udfff": "a"}}', "not_utf8", "metadata"),
        (b'{"method": {"qcrd": ["a", "\\ud83d"]}}', "not_utf8", "method.qcrd.1"),
        (b'{"model": "\xff"}', "not_utf8", None),
        ('{"model": "a"}'.encode("utf-16"), "not_utf8", None),
        (b'\xef\xbb\xbf{"model": "a"}', "broken_json", None),
        (b"[" * 100_000, "broken_json", None),
        (b"[" * 100 + b"]" * 100, "broken_json", None),
        (b'{"a":' * 900 + b"1" + b"}" * 900, "broken_json", None),
        (b"[" + b"[]," * 20_001 + b"1]", "broken_json", None),
        (b"[" + b"1," * 100_001 + b"1]", "broken_json", None),
        (b"{", "broken_json", None),
    ],
)
def test_json_that_two_readers_could_understand_differently_is_refused(
    here: Here, body: bytes, code: str, param: str | None
) -> None:
    answer = here.client.post(JOBS, content=body, headers=JSON)
    message = refused(answer, 400, code, param)
    assert "Traceback" not in message
    assert len(message) < 500


@pytest.mark.parametrize(
    ("method", "param"),
    [
        ({"type": []}, "method.type"),
        ({"type": {"a": 1}}, "method.type"),
        ({"type": None}, "method.type"),
        ({"type": "qcrd", "qcrd": 0}, "method.qcrd"),
        ({"type": "qcrd", "qcrd": []}, "method.qcrd"),
        ({"type": "qcrd", "qcrd": "x"}, "method.qcrd"),
    ],
)
def test_a_method_of_another_type_is_refused(here: Here, method: Any, param: str) -> None:
    body = {"model": "tiny", "training_file": "file-x", "method": method}
    refused(here.client.post(JOBS, json=body), 400, "invalid_value", param)
    answer = here.client.post("/v1/studies", json={"job": body, "methods": ["qcrd"]})
    refused(answer, 400, "invalid_value", f"job.{param}")


@pytest.mark.parametrize("text", ['{"a": [1, -2.5e3, null, true, "\\u00e4\\ud83d\\ude00"]}', "[]"])
def test_json_that_is_json_is_read_as_python_reads_it(text: str) -> None:
    assert strict_json.parse_json(text.encode()) == json.loads(text)


@pytest.mark.parametrize("key", ["k" * 50_000, "\ud800" * 50_000, "k" * 500])
def test_a_long_key_is_not_repeated_at_length(here: Here, key: str) -> None:
    body: Any = "\ud800"
    for _ in range(20):
        body = {key: body}
    with pytest.raises(Invalid) as caught:
        strict_json.parse_json(json.dumps(body).encode())
    assert len(caught.value.message) < 2000
    content = json.dumps({key: 1})
    assert len(here.client.post(JOBS, content=content, headers=JSON).content) < 2000


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, identity"])
def test_compressed_bodies_are_refused_unread(here: Here, encoding: str) -> None:
    headers = {"content-encoding": encoding, **JSON}
    bomb = gzip.compress(b" " * 10_000_000)
    refused(here.client.post(JOBS, content=bomb, headers=headers), 415, "unsupported_media_type")
    form = {"content-encoding": encoding, "content-type": "multipart/form-data; boundary=b"}
    answer = here.client.post("/v1/files", content=bomb, headers=form)
    refused(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "json", ""])
def test_a_body_that_is_not_called_json_is_refused(here: Here, kind: str) -> None:
    answer = here.client.post(JOBS, content=b'{"model": "a"}', headers={"content-type": kind})
    assert "application/json" in refused(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "application/problem+json"])
def test_every_way_to_call_it_json_is_taken(here: Here, kind: str) -> None:
    answer = here.client.post(JOBS, content=b"{}", headers={"content-type": kind})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "model"


def test_a_json_body_over_the_limit_is_cut_off_whether_declared_or_not(here: Here) -> None:
    body = b'{"model": "' + b"a" * (5 << 20) + b'"}'
    refused(here.client.post(JOBS, content=body, headers=JSON), 413, "too_large")
    pieces = iter([body[i : i + 65536] for i in range(0, len(body), 65536)])
    refused(here.client.post(JOBS, content=pieces, headers=JSON), 413, "too_large")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files/%2e%2e",
        "/v1/files/..%5c..%5cjobs",
        "/v1/files/file-%00",
        "/v1/files/file-" + "0" * 10_000,
        "/v1/files/file-" + "0" * 24 + "%0a",
        "/v1/files/%ff%fe",
        "/v1/files/%F0%9F%92%A9",
        "/v1/files/file-%ED%A0%80/content",
        "/v1/fine_tuning/jobs/..%2f..%2ffiles",
        "/v1/fine_tuning/jobs/ftjob-%00/events",
        "/v1/fine_tuning/jobs/%2e%2e/cancel",
        "/v1/models/..%2e",
        "/v1/studies/%00",
    ],
)
@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
def test_ids_like_paths_are_refused_in_the_envelope(here: Here, path: str, method: str) -> None:
    answer = here.client.request(method, path)
    assert answer.status_code in (400, 404, 405), answer.text
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "query",
    [
        "after=%ff",
        "after=%00",
        "after=" + "a" * 20_000,
        "after=../x",
        "limit=%ff",
        "limit=1e3",
        "limit=NaN",
        "limit=" + "9" * 5000,
        "order=%00",
        "order=asc&order=sideways",
        "%ff=%fe",
        "&&&=&",
    ],
)
@pytest.mark.parametrize("path", ["/v1/files", JOBS, "/v1/studies", "/v1/models"])
def test_broken_queries_are_no_crash(here: Here, path: str, query: str) -> None:
    answer = here.client.get(f"{path}?{query}")
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code != 200:
        error = answer.json()["error"]
        is_unknown = error["code"] == "unknown_parameter"
        assert is_unknown or error["param"] in ("after", "limit", "order")


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "PUT", "PATCH", "PROPFIND"])
def test_other_methods_have_the_envelope_and_say_what_is_allowed(here: Here, method: str) -> None:
    answer = here.client.request(method, "/v1/models")
    assert answer.status_code == 405
    assert answer.headers["allow"]
    assert answer.headers["x-request-id"]
    if method != "HEAD":
        refused(answer, 405, "method_not_allowed")


@pytest.mark.parametrize("host", ["[", "[zz]", "a]b", "[::1"])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/", "/nowhere"])
def test_a_host_that_is_none_is_refused(here: Here, host: str, path: str) -> None:
    refused(here.client.get(path, headers={"host": host}), 400, "invalid_host")


@pytest.mark.parametrize(
    "name",
    "last-event-id authorization idempotency-key x-request-id content-type accept range".split(),
)
@pytest.mark.parametrize("value", [b"\xff\xfe", b"\x80" * 5000, b"%00", b"../../x"])
def test_bytes_in_headers_are_no_crash(here: Here, name: str, value: bytes) -> None:
    job = here.create(here.file(sums(4))).json()["id"]
    for method, path in (("GET", f"{JOBS}/{job}/events"), ("POST", f"{JOBS}/{job}/cancel")):
        answer = here.client.request(method, path, headers=[(name.encode(), value)])
        assert answer.status_code < 500, answer.text


# --- forms -------------------------------------------------------------------------------------

FORM = {"content-type": "multipart/form-data; boundary=b"}
PURPOSE = b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
OTHER = PURPOSE.replace(b"fine-tune", b"batch")
FILE = b'--b\r\ncontent-disposition: form-data; name="file"; filename="x"\r\n\r\n'


def test_the_fields_of_an_upload_come_in_any_order(here: Here) -> None:
    data = lines(sums(3))
    for body in (PURPOSE + FILE + data + b"\r\n--b--", FILE + data + b"\r\n" + PURPOSE + b"--b--"):
        answer = here.client.post("/v1/files", content=body, headers=FORM)
        assert answer.status_code == 200, answer.text
        content = here.client.get(f"/v1/files/{answer.json()['id']}/content")
        assert content.content == data
    assert len(here.store.list("uploads/")) == 1


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (PURPOSE + FILE + lines(sums(2)), 400, "broken_form", None),
        (PURPOSE, 400, "broken_form", None),
        (b"", 400, "broken_form", None),
        (b"no form", 400, "broken_form", None),
        (PURPOSE + b"--b--", 400, "invalid_value", "file"),
        (FILE + lines(sums(2)) + b"\r\n--b--", 400, "invalid_value", "purpose"),
        (PURPOSE + PURPOSE + b"--b--", 400, "invalid_value", "purpose"),
        (
            PURPOSE + (FILE + lines(sums(2)) + b"\r\n") * 2 + b"--b--",
            400,
            "invalid_value",
            "file",
        ),
        (FILE + lines(sums(2)) + b"\r\n" + OTHER + b"--b--", 400, "invalid_value", "purpose"),
        (PURPOSE.replace(b"fine-tune", b"x" * 2000) + b"--b--", 400, "invalid_value", "purpose"),
        (PURPOSE.replace(b'"purpose"', b'"purposes"'), 400, "unknown_key", "purposes"),
        (b"--b\r\ncontent-disposition: form-data\r\n\r\nx\r\n--b--", 400, "broken_form", None),
        (b"--b\r\n" + b"x: y\r\n" * 100 + b"\r\n--b--", 400, "broken_form", None),
        (b"--b\r\nx: " + b"y" * 10_000 + b"\r\n\r\n--b--", 400, "broken_form", None),
        (FILE.replace(b'; filename="x"', b"") + b"\r\n--b--", 400, "invalid_value", "file"),
    ],
)  # fmt: skip
def test_a_wrong_form_is_refused_and_nothing_is_kept(
    here: Here, body: bytes, status: int, code: str, param: str | None
) -> None:
    refused(here.client.post("/v1/files", content=body, headers=FORM), status, code, param)
    assert here.store.list("") == []


@pytest.mark.parametrize("kind", ["", "application/json", "multipart/mixed; boundary=b"])
def test_an_upload_that_is_no_form_is_refused(here: Here, kind: str) -> None:
    answer = here.client.post("/v1/files", content=b"{}", headers={"content-type": kind})
    refused(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize("options", ["", "; boundary=", "; boundary=" + "b" * 300])
def test_a_form_without_a_usable_boundary_is_refused(here: Here, options: str) -> None:
    headers = {"content-type": f"multipart/form-data{options}"}
    refused(here.client.post("/v1/files", content=b"x", headers=headers), 400, "broken_form")


def test_many_parts_are_no_form_of_ours(here: Here) -> None:
    answer = here.client.post("/v1/files", content=PURPOSE + b"--b\r\n\r\n" * 50, headers=FORM)
    assert answer.status_code == 400
