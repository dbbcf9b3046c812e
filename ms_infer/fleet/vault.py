"""The newest state of every stream and the card of every session: pure, in memory, bounded by time."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import NamedTuple

from ms_infer.serve.saved import joined

KEEP_SECONDS = 600.0
"""A session without a gateway waits so long for its owner."""
MOVE_SECONDS = 5.0
"""A session that was handed out is there again after at most so long, as its new gateway tells; or it is lost."""


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
        self._digests: dict[str, str] = {}
        """Seat -> its card: a session has one, under its newest key."""
        self._taken: dict[str, float] = {}

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
        if before is not None and before.whole is not None and card.whole is None:
            return
        card.asked = before is not None and before.asked
        self._drop(self._digests.get(card.seat))  # of an earlier key: it is worth nothing any more
        self._drop(digest)
        self._cards[digest], self._digests[card.seat] = card, digest

    def ask(self, name: str, key: str) -> Card | None:
        """Whoever asks first gets it; the card stays until `take`."""
        card = self._cards.get(_digest(name, key))
        if card is None or card.asked:
            return None
        card.asked = True
        return card

    def moving(self, name: str, key: str, now: float) -> bool:
        """Whether somebody is being given this session, or was just now: it is there again in a moment."""
        digest = _digest(name, key)
        card = self._cards.get(digest)
        return now - self._taken.get(digest, -MOVE_SECONDS) < MOVE_SECONDS if card is None else card.asked

    def card(self, name: str, key: str) -> Card | None:
        return self._cards.get(_digest(name, key))

    def take(self, name: str, key: str, now: float) -> bytes | None:
        """The newest of a session, which is the asker's alone from now on."""
        digest = _digest(name, key)
        card = self._drop(digest)
        if card is None:
            return None
        self._taken[digest] = now
        kept = self._states.pop(card.seat, None)
        if card.whole is not None:
            return card.whole
        return joined(card.light, kept[1] if kept is not None and kept[0].epoch >= card.place.epoch else None)

    def forget(self, seat: str) -> None:
        """A stream has ended; its session stays only where it was handed over."""
        self._states.pop(seat, None)
        digest = self._digests.get(seat)
        if digest is not None and self._cards[digest].whole is None:
            self._drop(digest)

    def tidy(self, now: float, gateways: set[str]) -> None:
        """Throw away sessions that nobody came back to."""
        for digest, card in list(self._cards.items()):
            if card.gateway not in gateways and now - card.told > KEEP_SECONDS:
                self._drop(digest)
                self._states.pop(card.seat, None)
        self._taken = {digest: at for digest, at in self._taken.items() if now - at < MOVE_SECONDS}

    def _drop(self, digest: str | None) -> Card | None:
        card = None if digest is None else self._cards.pop(digest, None)
        if card is not None:
            self._digests.pop(card.seat, None)
        return card

    @property
    def seats(self) -> set[str]:
        """Streams of which there is a state."""
        return set(self._states)

    @property
    def nbytes(self) -> int:
        return sum(len(state) for _, state in self._states.values())


def _digest(name: str, key: str) -> str:
    return hashlib.sha256(json.dumps([name, key]).encode()).hexdigest()
