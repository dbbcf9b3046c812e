"""From a control message to what it does in a session."""

from __future__ import annotations

import asyncio
from typing import Any

from ms_infer.serve import protocol
from ms_infer.serve.making import Cue, PromptWish
from ms_infer.serve.pictures.uploads import WebcamMotion
from ms_infer.serve.session import Session
from ms_infer.serve.wire.clients import Client

LOOKS = ("plain", "night", "dusk", "fog", "snow", "sepia")  # words that the page proposes where the model knows them


def hello(session: Session, client: Client) -> dict[str, Any]:
    """The first message to a client: what there is and what it may do."""
    config, serve = session.stream.config, session.context.config
    limits = serve.limits
    return {
        "version": protocol.VERSION,
        "session": session.id,
        "key": session.key if client.owner else "",
        "route": session.context.route,
        "owner": client.owner,
        "state": session.state,
        "resting": session.resting,
        "model": config.model.name,
        "engine": getattr(session.stream, "engine", ""),
        "width": config.width,
        "height": config.height,
        "fps": session.fps,
        "chunk_frames": session.chunk_frames,
        "prompt": session.maker.prompt if isinstance(session.maker.prompt, str) else "",
        "words": [word for word in LOOKS if word in config.model.text.vocabulary],
        "vocabulary": list(config.model.text.vocabulary),
        "prompts": session.context.examples.prompts,
        "follows_tracks": session.maker.follows_tracks,
        "has_image": session.maker.image is not None,
        "last_control": session.maker.last_control,
        "examples": list(session.context.examples.names),
        "image_bytes": limits.image_bytes,
        "video_bytes": limits.video_bytes,
    }


async def apply_control(session: Session, control: protocol.Control) -> None:
    """Do what a control says; it shows in the next chunk. ConfigError when it cannot be done."""
    try:
        await _apply(session, control)
    finally:
        session.note(control)  # afterwards: a chunk must not claim a control that it does not hold


async def _apply(session: Session, control: protocol.Control) -> None:
    match control:
        case protocol.Pointers():
            session.pointers(control)
        case protocol.Prompt() | protocol.Schedule():
            await _change_prompt(session, control)
        case protocol.Start():
            await _start(session, control)
        case protocol.Simple():
            _simple(session, control.do)
        case protocol.Switch():
            await _switch(session, control)
        case _:
            _edit(session, control)


def _edit(session: Session, control: protocol.Control) -> None:
    """Controls that change the points."""
    match control:
        case protocol.Points():
            {"static": session.hand.static, "brush": session.hand.brush, "remove": session.hand.remove}[control.do](
                control.points
            )
        case protocol.Path():
            session.hand.path(control.points, seconds=control.seconds, reach=control.radius, thing=control.thing)
        case protocol.Camera():
            session.hand.steer(x=control.x, y=control.y, zoom=control.zoom, roll=control.roll)
        case protocol.Carry():
            session.hand.carry(x=control.x, y=control.y, zoom=control.zoom, roll=control.roll)
        case protocol.Grid():
            session.hand.grid(control.rows, control.cols)
        case protocol.Options():
            for name in ("hold_rest", "hold_released"):
                if (value := getattr(control, name)) is not None:
                    setattr(session.hand, name, value)


def _simple(session: Session, do: str) -> None:
    if do == "stop":
        session.halt()
    elif do == "pause" and session.state == "running":
        session.set_state("paused")
    elif do == "resume" and session.state == "paused":
        session.set_state("running")
    elif do == "reset":
        session.begin()
    elif do == "clear":
        session.hand.reset()


async def _start(session: Session, control: protocol.Start) -> None:
    if control.example:
        config, examples = session.stream.config, session.context.examples
        session.maker.image = await asyncio.to_thread(examples.picture, control.example, config.height, config.width)
    if control.prompt is not None:
        session.set_prompt(PromptWish(await _prompt(session, control.prompt), control.id))
    if control.seed is not None:
        session.maker.seed = control.seed
    session.begin(keep_points=not control.example)


async def _change_prompt(session: Session, control: protocol.Prompt | protocol.Schedule) -> None:
    if session.stream.config.model.text.kind == "words":
        await _set_prompts(session, control)
        return
    session.prompt_wanted = control.id
    session.spawn(_set_prompts(session, control))


async def _set_prompts(session: Session, control: protocol.Prompt | protocol.Schedule) -> None:
    """Now, or at their times; nothing where a newer one came while they were embedded."""
    timed = [(0.0, control.text)] if isinstance(control, protocol.Prompt) else control.prompts
    texts = [await _prompt(session, text) for _, text in timed]
    if session.prompt_wanted > control.id:
        return
    wishes = [PromptWish(text, control.id, control.over, control.way, control.recache) for text in texts]
    if isinstance(control, protocol.Prompt):
        session.set_prompt(wishes[0])
    else:
        frames = [round(seconds * session.fps) for seconds, _ in timed]
        session.schedule([Cue(*one) for one in zip(frames, wishes, strict=True)])


async def _prompt(session: Session, text: str) -> Any:
    """What the stream takes as a prompt; a large text encoder runs beside the engine thread, never in it."""
    model = session.stream.config.model
    if model.text.kind == "words":
        return text
    return await asyncio.to_thread(session.stream.embed, text)


async def _switch(session: Session, control: protocol.Switch) -> None:
    if control.do == "record":
        await session.record(control.on)
    elif control.do == "webcam":
        session.webcam = WebcamMotion() if control.on else None
        session.hand.push(None)
    elif control.on:
        session.hand.loop = control.loop
    else:
        session.hand.play(None)


async def webcam_picture(session: Session, data: bytes) -> None:
    """Move the points as the webcam's picture moved."""
    motion = session.webcam
    if motion is None:
        return
    flow = await asyncio.to_thread(motion.step, data)
    if flow is not None and session.webcam is motion:
        session.hand.push(flow)
    session.note(protocol.Message())
