"""What a teacher's configuration has to be sent with each request, and must not be shown."""

from __future__ import annotations

from services.api.settings import TeacherConfig


def build_headers(teacher: TeacherConfig) -> dict[str, str]:
    """The key as OpenAI and TGI take it, and the headers that the configuration adds."""
    key = teacher.read_key()
    headers = {"authorization": f"Bearer {key}"} if key else {}
    more = {name.lower(): value.get_secret_value() for name, value in teacher.headers.items()}
    return {**headers, **more}


def build_query(teacher: TeacherConfig) -> dict[str, str]:
    return {name: value.get_secret_value() for name, value in teacher.query.items()}


def list_secrets(teacher: TeacherConfig) -> list[str]:
    """The values that no message may repeat; a word of one character would blank every text."""
    values = [teacher.read_key() or "", *build_headers(teacher).values()]
    values += build_query(teacher).values()
    words = [word for value in values for word in value.split()]  # of `Bearer KEY`, the key
    return [value for value in (*values, *words) if len(value) > 7]
