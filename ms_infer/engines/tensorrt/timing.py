"""When the parts of a chunk end, on the GPU's own clock: the host only launches them."""

from __future__ import annotations

from dataclasses import dataclass

from ms_infer.engines.tensorrt.cuda import Cuda

_INSIDE = ("begun", "denoised", "frames")


@dataclass
class _Turn:
    """Events of one chunk that are recorded outside of the graph, and what is known of it."""

    start: int
    end: int
    denoised_ms: float | None = None
    """From `start` to the latents; None for a chunk that was not committed."""


class ChunkTimes:
    """Events of a chunk: its start and end on the main CUDA stream, and marks inside of the graph.

    A graph has one event per mark, which the next launch records again; start and end have two in turns. So the clean
    pass of a chunk, which still runs when its frames are out, is read with the next chunk: from the latents to the end
    of everything, which is the decoder's end where the decoder takes longer.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._marks = {name: cuda.new_event(timed=True) for name in _INSIDE}
        self._turns = tuple(_Turn(cuda.new_event(timed=True), cuda.new_event(timed=True)) for _ in range(2))
        self._current = 0
        self._ms: dict[str, float] = {}

    def begin(self, cuda_stream: int) -> None:
        """The chunk begins: the host fills its inputs."""
        turn = self._turns[self._current]
        turn.denoised_ms = None
        self._cuda.record(turn.start, cuda_stream)

    def record(self, mark: str, cuda_stream: int, *, inside: bool) -> None:
        """A mark of the chunk; `inside` of a capture."""
        self._cuda.record(self._marks[mark], cuda_stream, external=inside)

    def wait(self, mark: str, cuda_stream: int) -> None:
        """Let later work of the CUDA stream wait for a mark."""
        self._cuda.wait(cuda_stream, self._marks[mark])

    def end(self, cuda_stream: int) -> None:
        """All of the chunk is launched."""
        self._cuda.record(self._turns[self._current].end, cuda_stream)

    def close_chunk(self) -> None:
        """Read the times of a chunk whose frames are out, and the clean pass of the one before."""
        cuda, now, before = self._cuda, self._turns[self._current], self._turns[1 - self._current]
        begun, denoised = (cuda.elapsed_ms(now.start, self._marks[name]) for name in ("begun", "denoised"))
        decode = cuda.elapsed_ms(self._marks["denoised"], self._marks["frames"])
        self._ms = {"begin": begun, "denoise": denoised - begun, "decode": decode}
        if before.denoised_ms is not None:
            self._ms["write_cache"] = cuda.elapsed_ms(before.start, before.end) - before.denoised_ms
        now.denoised_ms = denoised
        self._current = 1 - self._current

    def stage_ms(self) -> dict[str, float]:
        """See `Engine.stage_ms`."""
        return dict(self._ms)
