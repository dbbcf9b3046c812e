"""The newest state of every stream and the card of every session: pure, in memory, bounded by time."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import NamedTuple

from ms_infer.serve.saved import joined

KEEP_SECONDS = 600.0
"""A session without a gateway waits so long for its owner."""


class Place(NamedTuple):
    """Where a stream stands between two chunks."""

    epoch: int
    """Counts the starts: chunk numbers begin anew with each."""
    chunk: int
    """Of the next chunk."""


@dataclass
class Card:
    """A session, as the gateway that has it tells."""

    seat: str
    gateway: str
    place: Place
    light: bytes
    """All but its stream."""
    told: float
    whole: bytes | None = None
    """With its stream, once it was handed over."""
    asked: bool = False
    """Somebody waits for it."""


class Vault:
    """Bytes are kept here, not references: an object dies with the process that made it."""

    def __init__(self) -> None:
        self._states: dict[str, tuple[Place, bytes]] = {}
        self._cards: dict[str, Card] = {}

    def keep(self, seat: str, place: Place, state: bytes) -> Place:
        """Keep a stream's state unless a newer one is there; returns the newest place."""
        found = self._states.get(seat)
        if found is None or place > found[0]:
            self._states[seat] = (place, state)
        return self._states[seat][0]

    def newest(self, seat: str) -> tuple[Place, bytes] | None:
        """The newest state of a stream."""
        return self._states.get(seat)

    def tell(self, name: str, key: str, card: Card) -> None:
        """The newest of a session; one that was handed over already stays as it is."""
        digest = _digest(name, key)
        before = self._cards.get(digest)
        if before is None or before.whole is None or card.whole is not None:
            card.asked = before is not None and before.asked
            self._cards[digest] = card

    def ask(self, name: str, key: str) -> Card | None:
        """Whoever asks first gets it; the card stays until `take`."""
        card = self._cards.get(_digest(name, key))
        if card is None or card.asked:
            return None
        card.asked = True
        return card

    def card(self, name: str, key: str) -> Card | None:
        return self._cards.get(_digest(name, key))

    def take(self, name: str, key: str) -> bytes | None:
        """The newest of a session, which is the asker's alone from now on."""
        card = self._cards.pop(_digest(name, key), None)
        if card is None:
            return None
        kept = self._states.pop(card.seat, None)
        if card.whole is not None:
            return card.whole
        return joined(card.light, kept[1] if kept is not None and kept[0].epoch >= card.place.epoch else None)

    def forget(self, seat: str) -> None:
        """A stream has ended; its session stays only where it was handed over."""
        self._states.pop(seat, None)
        self._cards = {d: card for d, card in self._cards.items() if card.seat != seat or card.whole is not None}

    def tidy(self, now: float, gateways: set[str]) -> None:
        """Throw away sessions that nobody came back to."""
        old = [d for d, c in self._cards.items() if c.gateway not in gateways and now - c.told > KEEP_SECONDS]
        for digest in old:
            self._states.pop(self._cards.pop(digest).seat, None)

    @property
    def seats(self) -> set[str]:
        """Streams of which there is a state."""
        return set(self._states)

    @property
    def nbytes(self) -> int:
        return sum(len(state) for _, state in self._states.values())


def _digest(name: str, key: str) -> str:
    return hashlib.sha256(json.dumps([name, key]).encode()).hexdigest()
