"""`ms-stream`: a video from a picture and a drag, in one command."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from ms_infer.blend import Blend
from ms_infer.cli.model import ModelOptions, say_notes
from ms_infer.cli.prompts import PromptSchedule, parse_prompts
from ms_infer.cli.run import parse_size, run_command, set_logging
from ms_infer.errors import ConfigError

if TYPE_CHECKING:
    from ms_infer.chunk import Chunk
    from ms_infer.config import StreamConfig
    from ms_infer.demo import Example
    from ms_infer.media.writer import VideoWriter
    from ms_infer.stream import Stream
    from ms_infer.tracks import Tracks


SECONDS = 5.0
SHEET_COLUMNS = 8


@dataclass(frozen=True)
class StreamOptions(ModelOptions):
    """Stream motion-controlled video to a file."""

    source: tyro.conf.Positional[str] = "demo"
    """"demo", a checkpoint (file, folder, repository or OWNER/NAME of the hub), or a bundle made by ms-export."""
    image: str | None = None
    """First frame: any picture; it is cropped and scaled. The demo brings one of its own."""
    tracks: str | None = None
    """Points to follow: .npz or .json of ours, of a tracker or of SplineEditor, ATI .pth, Wan-Move .npy."""
    size: str | None = None
    """HEIGHTxWIDTH of the picture that --tracks belong to, where the file does not say; by default that of --image."""
    fps: float | None = None
    """RGB frames per second of --tracks, where the file does not say them; by default what is usual for its kind."""
    drag: tuple[str, ...] = ()
    """x0,y0:x1,y1 in 0..1, more than once if you like: pull what is at x0,y0 to x1,y1."""
    radius: float = 0.15
    """How much of the picture around x0,y0 a drag takes along (0..1)."""
    camera: str | None = None
    """pan=0.2,0.0 zoom=1.2 roll=10 dolly=0.3, joined by blanks or semicolons."""
    prompt: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """What the video shows. More than once: 0:TEXT, then 80:TEXT from that RGB frame on, or 5s:TEXT."""
    prompt_over: int = 1
    """Chunks in which a later prompt takes the place of the one before."""
    prompt_way: Literal["linear", "slerp"] = "linear"
    """How the embeddings between two prompts are made."""
    recache: bool = False
    """Encode the context again under a later prompt once it is all there, so that it lets go of the one before."""
    prompt_embeds: str | None = None
    """The prompt, embedded elsewhere: .npy, .safetensors or .pt with [tokens, dim]."""
    grid: int = 12
    """Rows and columns of the grid of points that drags and camera move."""
    tour: bool = False
    """Show what the model does, in three scenes of the demo: a thing dragged on a path, the camera moved, a photograph
    whose main thing is dragged."""
    seconds: float | None = None
    """Length of the video; by default 5, and of a tour 6."""
    motion_seconds: float = 2.0
    """How long a drag or camera move takes."""
    output: Annotated[str, tyro.conf.arg(aliases=["-o"])] = "out.mp4"
    """NAME.mp4, NAME.gif, NAME.y4m, FOLDER/ for PNG files; on stdout - for raw rgb24, -.y4m for other programs."""
    show_tracks: bool = False
    """Draw the points that move into the video."""
    sheet: str | None = None
    """NAME.jpg, NAME.png or NAME.webp: eight frames of the video in a row as one picture; of a tour a row a scene."""
    seed: int = 0
    """Seed of the noise: same seed, same video."""
    engine: str = "auto"
    """auto, torch, openvino or tensorrt."""
    precision: str | None = None
    """fp32, bf16, ...; by default what is best for the device."""
    json: bool = False
    """Print one JSON document with the numbers of the run on stdout."""
    verbose: Annotated[bool, tyro.conf.arg(aliases=["-v"])] = False
    quiet: Annotated[bool, tyro.conf.arg(aliases=["-q"])] = False
    debug: bool = False
    """Show the trace of an error."""


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of `ms-stream`; returns the exit code."""
    options = tyro.cli(StreamOptions, prog="ms-stream", args=args)
    return run_command("ms-stream", lambda: stream_to_file(options), debug=options.debug)


def stream_to_file(options: StreamOptions) -> str:
    """Run the stream; returns the closing message."""
    from ms_infer.media.sheet import write_sheet
    from ms_infer.media.writers import open_writer

    set_logging(verbose=options.verbose, quiet=options.quiet)
    _check(options)
    times: list[float] = []
    with open_stream(options) as stream:
        config, scenes = stream.config, plan_scenes(options, stream.config)
        frames = sum(round(scene.seconds * config.fps) for scene in scenes)
        scenes[0].start(stream)
        writing = open_writer(options.output, height=config.height, width=config.width, fps=config.fps)
        with writing as writer, _progress_bar(options, frames) as advance:
            for scene in scenes:
                if scene is not scenes[0]:
                    scene.start(stream)
                times += _write(stream, scene, writer, options.show_tracks, advance)
        if options.sheet is not None:
            write_sheet(options.sheet, np.stack([scene.kept for scene in scenes]))
    return _report(stream, frames, times, options)


def _check(options: StreamOptions) -> None:
    """ConfigError for what cannot be, before a model is opened."""
    from ms_infer.media.sheet import check_sheet

    if options.json and options.output in ("-", "-.y4m"):
        raise ConfigError(f"--json and -o {options.output} both want stdout; write the video to a file")
    if options.seconds is not None and not options.seconds > 0:
        raise ConfigError(f"--seconds must be positive, not {options.seconds}")
    if options.sheet is not None:
        check_sheet(options.sheet)
    own = ("image", "tracks", "drag", "camera", "prompt", "prompt_embeds")
    given = [name for name in own if getattr(options, name)]
    if options.tour and given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"--tour brings pictures, prompts and motions of its own; leave {names} out")


@dataclass
class Scene:
    """A picture and what happens to it, as one stream."""

    image: Any
    prompt: Any
    tracks: Tracks | None
    seconds: float
    schedule: PromptSchedule
    kept: list[Any] = field(default_factory=list)
    """The frames for the sheet."""

    def start(self, stream: Stream) -> None:
        """Begin the stream anew with it."""
        stream.start(self.image, self.prompt, self.tracks)


def plan_scenes(options: StreamOptions, config: StreamConfig) -> list[Scene]:
    """What the video shows: the scenes of the tour, said on stderr, or the one that the options ask for."""
    from ms_infer.cli.tour import SECONDS as TOUR_SECONDS
    from ms_infer.cli.tour import tour_scenes
    from ms_infer.tracks import Tracks

    follows = can_follow(options, config)
    if not options.tour:
        return [_scene(options, config, follows)]
    length = (options.seconds or TOUR_SECONDS) / 3
    scenes = tour_scenes(Tracks.grid(options.grid, options.grid), length)
    if not options.quiet:
        for number, scene in enumerate(scenes):
            span = f"{number * length:.1f}-{(number + 1) * length:.1f} s"
            print(f"ms-stream: {span}: {scene.words} ({scene.example.image.name})", file=sys.stderr)
    return [
        Scene(
            scene.example.image, scene.example.prompt, scene.tracks, length, PromptSchedule([], Blend(1), recache=False)
        )
        for scene in scenes
    ]


def _scene(options: StreamOptions, config: StreamConfig, follows: bool) -> Scene:
    from ms_infer.demo import default_example

    example = default_example() if options.source == "demo" and options.image is None else None
    if example is not None:
        options = replace(options, image=str(example.image), prompt=options.prompt or (example.prompt,))
    tracks = make_tracks(options, config, example) if follows else None
    cues = parse_prompts(options.prompt, config.fps)
    schedule = PromptSchedule(cues[1:], Blend(options.prompt_over, options.prompt_way), recache=options.recache)
    seconds = SECONDS if options.seconds is None else options.seconds
    return Scene(options.image, prompt_of(options, cues[0].prompt), tracks, seconds, schedule)


def open_stream(options: StreamOptions) -> Stream:
    """The stream of the command line: a source and the parts that go with it, said on stderr."""
    from ms_infer.stream import Stream

    stream = Stream(
        options.source,
        engine=options.engine,
        precision=options.precision,
        seed=options.seed,
        text_encoder=options.text_encoder,
        **options.parts(),
    )
    if options.source != "demo" and not options.quiet:
        say_notes("ms-stream", stream.notes)
    return stream


def prompt_of(options: StreamOptions, prompt: str) -> Any:
    """The first prompt's text, or its rows from a file; ConfigError when both are given."""
    if options.prompt_embeds is None:
        return prompt
    if prompt:
        raise ConfigError("--prompt and --prompt-embeds say the same thing; give one")
    from ms_infer.prompts import read_embedding

    return read_embedding(options.prompt_embeds)


def can_follow(options: StreamOptions, config: StreamConfig) -> bool:
    """Whether the model has a track head; ConfigError where motion was asked of one without."""
    if config.model.track_head is not None:
        return True
    asked = [f"--{name}" for name in ("tracks", "drag", "camera", "tour") if getattr(options, name)]
    if asked:
        raise ConfigError(f"the model {config.model.name!r} has no track head; it cannot follow {', '.join(asked)}")
    return False


def make_tracks(options: StreamOptions, config: StreamConfig, example: Example | None = None) -> Tracks:
    """Tracks of the command line: a file, or a grid moved by drags and camera, else as suits the demo's example."""
    from ms_infer.tracks import Tracks

    if options.tracks:
        return load_tracks(options.tracks, options.image, config, size=options.size, fps=options.fps)
    if options.size or options.fps:
        raise ConfigError("--size and --fps say what a file of --tracks does not: give --tracks FILE too")
    tracks = Tracks.grid(options.grid, options.grid)
    if example is not None and not (options.drag or options.camera):
        return example.moved(tracks, options.motion_seconds)
    for drag in options.drag:
        start, end = parse_drag(drag)
        tracks = tracks.grab(start, end, seconds=options.motion_seconds, radius=options.radius)
    if options.camera:
        aspect = config.width / config.height
        tracks = tracks.camera(**parse_camera(options.camera), seconds=options.motion_seconds, aspect=aspect)
    return tracks


def load_tracks(
    path: str, image: str | None, config: StreamConfig, *, size: str | None = None, fps: float | None = None
) -> Tracks:
    """Tracks of a file, cropped as the picture is that they belong to: `size` as HEIGHTxWIDTH, or the first frame."""
    from ms_infer.media import image_size
    from ms_infer.tracks import Tracks

    picture = parse_size(size) if size else image_size(image) if image is not None else None
    tracks = Tracks.load(path, size=picture, fps=fps)
    if tracks.size is None and picture is not None:
        tracks = tracks.to_pixels(*picture)
    return tracks if tracks.size is None else tracks.crop_to(config.height, config.width)


def parse_drag(text: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """x0,y0:x1,y1 -> ((x0, y0), (x1, y1))."""
    try:
        (x0, y0), (x1, y1) = (map(float, end.split(",")) for end in text.split(":"))
    except ValueError:
        raise ConfigError(f"--drag {text!r} should read x0,y0:x1,y1 with numbers in 0..1") from None
    return (x0, y0), (x1, y1)


def parse_camera(text: str) -> dict[str, Any]:
    """pan=dx,dy zoom=f roll=degrees dolly=d -> arguments of Tracks.camera."""
    wanted: dict[str, Any] = {}
    for part in text.replace(";", " ").split():
        name, _, value = part.partition("=")
        try:
            numbers = tuple(float(number) for number in value.split(","))
        except ValueError:
            numbers = ()
        if name not in ("pan", "zoom", "roll", "dolly") or len(numbers) != (2 if name == "pan" else 1):
            raise ConfigError(f"--camera {part!r}: write pan=dx,dy zoom=factor roll=degrees dolly=distance")
        wanted[name] = numbers if name == "pan" else numbers[0]
    return wanted


def _write(
    stream: Stream, scene: Scene, writer: VideoWriter, show_tracks: bool, advance: Callable[[int, float], None]
) -> list[float]:
    """Make and write every chunk of a scene, changing the prompt on the way; returns the chunk times in ms."""
    last = round(scene.seconds * stream.config.fps) - 1
    wanted = [round(number * last / (SHEET_COLUMNS - 1)) for number in range(SHEET_COLUMNS)]
    times = []
    for chunk in stream.take(seconds=scene.seconds):
        frames = _with_tracks(chunk, stream, scene.tracks) if show_tracks else chunk.frames
        writer.write(frames)
        span = range(chunk.first_rgb_frame, chunk.first_rgb_frame + len(frames))
        scene.kept += [frames[number - span.start] for number in wanted if number in span]
        scene.schedule.after(stream, chunk)
        times.append(chunk.timings["chunk"])
        advance(len(chunk.frames), times[-1])
    return times


def _with_tracks(chunk: Chunk, stream: Stream, tracks: Tracks | None) -> Any:
    from ms_infer.media.overlay import TAIL_RGB_FRAMES, draw_tracks, guess_kinds
    from ms_infer.tracks.player import TrackPlayer

    if tracks is None:
        return chunk.frames
    config = stream.config
    player = TrackPlayer(config.height, config.width, config.fps, tracks.count)
    player.set(tracks, 0)
    whole = tracks.to_pixels(config.height, config.width)
    first = max(0, chunk.first_rgb_frame - TAIL_RGB_FRAMES)
    shown = player.chunk(first, chunk.first_rgb_frame + len(chunk.frames) - first)
    kinds = guess_kinds(whole.points, whole.visible)
    drawn = [row for row, kind in enumerate(kinds) if kind != "static"] or list(range(len(kinds)))  # not the whole grid
    return draw_tracks(chunk.frames, shown.points[drawn], shown.visible[drawn], [kinds[row] for row in drawn])


@contextmanager
def _progress_bar(options: StreamOptions, frames: int) -> Iterator[Callable[[int, float], None]]:
    """A bar on a terminal's stderr, silent elsewhere; what it gives takes a chunk's frames and milliseconds."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("frames  {task.description}"))
    hidden = options.quiet or not sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), disable=hidden, transient=True) as bar:
        task = bar.add_task("", total=frames)
        yield lambda made, ms: bar.update(
            task, advance=made, description=f"{1e3 * made / ms:.1f} FPS  {ms:.0f} ms a chunk"
        )


def _report(stream: Stream, frames: int, times: list[float], options: StreamOptions) -> str:
    config = stream.config
    fps = frames / (sum(times) / 1e3)
    middle = sorted(times)[len(times) // 2]
    if options.json:
        document = {
            "output": options.output,
            "frames": frames,
            "fps": fps,
            "chunk_ms_p50": middle,
            "chunk_ms": times,
            "engine": stream.engine,
            "size": [config.height, config.width],
            "sheet": options.sheet,
        }
        print(json.dumps(document))
    written = options.output if options.sheet is None else f"{options.output}, {options.sheet}"
    return f"done: {frames} frames at {fps:.1f} FPS ({middle:.0f} ms a chunk, {stream.engine}) → {written}"


if __name__ == "__main__":
    sys.exit(main())
