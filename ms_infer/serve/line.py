"""Who waits for a session when there is none: in the order in which they came."""

from __future__ import annotations

import time

from ms_infer.serve.wire.clients import Client

PATIENCE_SECONDS = 10.0
"""A client that has not asked again for so long no longer waits; pages ask every 3 seconds."""


class Line:
    """Clients in the order of their first refusal. Event loop only."""

    def __init__(self) -> None:
        self._asked: dict[Client, float] = {}

    def place(self, client: Client) -> int:
        """Its place, counted from 1: behind all that wait already."""
        self._tidy()
        before = list(self._asked)
        return before.index(client) + 1 if client in self._asked else len(before) + 1

    def wait(self, client: Client) -> int:
        """It waits, or goes on waiting; returns its place."""
        place = self.place(client)
        self._asked[client] = time.monotonic()
        return place

    def leave(self, client: Client) -> None:
        """It waits no longer."""
        self._asked.pop(client, None)

    def _tidy(self) -> None:
        now = time.monotonic()
        for client, asked in list(self._asked.items()):
            if client.closing or now - asked > PATIENCE_SECONDS:
                del self._asked[client]
