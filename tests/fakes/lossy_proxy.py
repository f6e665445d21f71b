"""A TCP proxy that lets the server do what it is told and then loses the answer."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Self


class LossyProxy:
    """Passes connections on to `server` on loopback. Of the answers to requests that contain
    `losing`, each `every`-th is lost together with its connection."""

    def __init__(self, server: int, *, losing: bytes, every: int) -> None:
        self._server = server
        self._losing = losing
        self._every = every
        self._seen = 0
        self.lost = 0
        self._lock = threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        """Redis answers each request before the next one is sent, so one thread serves both."""
        with client, socket.create_connection(("127.0.0.1", self._server)) as server:
            while request := client.recv(1 << 16):
                server.sendall(request)
                answer = server.recv(1 << 16)
                if self._loses(request):
                    return
                client.sendall(answer)

    def _loses(self, request: bytes) -> bool:
        with self._lock:
            self._seen += self._losing in request
            lost = self._losing in request and self._seen % self._every == 0
            self.lost += lost
        return lost
