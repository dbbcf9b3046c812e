"""What `/metrics` tells: Prometheus counters of the whole server, without labels that grow."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from ms_infer._version import __version__

BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0)


class Metrics:
    """The counters; "frames" are RGB frames."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.chunk_seconds = Histogram(
            "ms_infer_chunk_duration_seconds",
            "Time to make a chunk",
            ["stage"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.control_seconds = Histogram(
            "ms_infer_control_latency_seconds",
            "Arrival of a control to the first frame made with it leaving the server",
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.frames = self._counter("frames", "Frames shown")
        self.dropped = self._counter("frames_dropped", "Frames that slow clients lost")
        self.rested = self._counter("rested_seconds", "Time in which no chunks were made because nothing moved")
        self.misses = self._counter("deadline_misses", "Chunks that were not ready in time")
        self.failures = self._counter("chunk_failures", "Chunks that an engine failed to make")
        self.messages = self._counter("messages_received", "Messages from clients")
        self.refused = self._counter("messages_refused", "Messages from clients that could not be read")
        self.moved = self._counter("sessions_moved", "Sessions that were saved when the server was stopped")
        self.resumed = self._counter("sessions_resumed", "Sessions to which their owner came back")
        self.capacity = Gauge(
            "ms_infer_capacity", "Sessions that can be fed at the rate that is promised", registry=self.registry
        )
        self.reserved = Gauge("ms_infer_reserved", "Sessions that are open or being opened", registry=self.registry)
        self.unprotected = Gauge(
            "ms_infer_unprotected", "Sessions of a fleet that would be lost with their engine", registry=self.registry
        )
        self.sessions = Gauge("ms_infer_sessions", "Open sessions", registry=self.registry)
        self.clients = Gauge("ms_infer_clients", "Open WebSockets", registry=self.registry)
        Info("ms_infer_build", "Version of the server", registry=self.registry).info({"version": __version__})

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"ms_infer_{name}", text, registry=self.registry)

    def text(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)
