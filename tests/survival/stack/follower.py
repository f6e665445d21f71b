"""Somebody who follows a job over the gateway's event stream and goes on where it broke off."""

from __future__ import annotations

import json
import random
import threading
import time
from typing import Any

import httpx2

OVER = ("succeeded", "failed", "cancelled")


class Follower:
    """Reads the stream of `job_id` from a thread of its own, reconnecting with `Last-Event-ID`.

    It leaves by itself every second or two, in the middle of whatever comes, so that every run
    has many reconnections and not only those that a kill makes.
    """

    def __init__(self, urls: list[str], job_id: str, rng: random.Random) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.connections = 0
        self._urls = [f"{url}/v1/fine_tuning/jobs/{job_id}/events?stream=true" for url in urls]
        self._rng = rng
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    @property
    def over(self) -> bool:
        return bool(self.seen) and self.seen[-1][1].get("data", {}).get("status") in OVER

    def join(self, seconds: float) -> None:
        """Wait for the last event."""
        self._thread.join(seconds)
        self._leave.set()
        self._thread.join(60)

    def _follow(self) -> None:
        while not self.over and not self._leave.is_set():
            url = self._urls[self.connections % len(self._urls)]
            self.connections += 1
            try:
                self._once(url, stay=self._rng.uniform(0.5, 3.0))
            except httpx2.HTTPError:
                time.sleep(0.2)

    def _once(self, url: str, stay: float) -> None:
        headers = {"Last-Event-ID": self.seen[-1][0]} if self.seen else {}
        leave_at = time.monotonic() + stay
        timeout = httpx2.Timeout(5.0, read=2.0)
        with httpx2.stream("GET", url, headers=headers, timeout=timeout) as answer:
            if answer.status_code != 200:
                time.sleep(0.2)
                return
            event_id = ""
            for line in answer.iter_lines():
                if line.startswith("id: "):
                    event_id = line[4:]
                elif line.startswith("data: "):
                    self.seen.append((event_id, json.loads(line[6:])))
                if self.over or self._leave.is_set() or time.monotonic() > leave_at:
                    return
