"""The beginnings of a teacher's error messages that its clients act on.

TGI's protocol has no type for them, and its clients hand on the message alone.
"""

from __future__ import annotations

UPSTREAM_AWAY = "Upstream does not answer: "
"""The server behind the teacher is away: ask again when it is back."""
CONTENT_FILTERED = "Content filtered: "
"""The server behind the teacher withholds its answer to this prompt."""
