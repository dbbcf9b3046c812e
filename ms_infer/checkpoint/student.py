"""Opens a student from any checkpoint of its class, saves one in our own format, makes a random one.

Our own format is one safetensors file: metadata `format` and `config` (JSON of `StreamConfig.to_dict()`), and the
tensors of the parts under `transformer.`, `track_head.`, `text_encoder.`, `image_encoder.`, `vae.`,
`layer_network.` and `refiner.`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ms_infer.checkpoint.autoencoder import Latents, vae_of, with_latents
from ms_infer.checkpoint.described import trusted
from ms_infer.checkpoint.files import CheckpointFile, check_finite, read_checkpoint
from ms_infer.checkpoint.kinds import STUDENT, kind_of
from ms_infer.checkpoint.known import with_recipe
from ms_infer.checkpoint.lora import read_lora, with_strength
from ms_infer.checkpoint.merge import Adapters, fitted, merge
from ms_infer.checkpoint.names import (
    WANTRACK_PREFIX,
    is_diffusers,
    listed,
    normalised,
    split_prefix,
    strip_wrappers,
    wantrack_head,
)
from ms_infer.checkpoint.parts import PARTS, make_part, part_shapes, parts_of, random_tensors
from ms_infer.checkpoint.sizes import Sizes, check_sizes, stream_config, with_head_of, with_image_encoder
from ms_infer.config import StreamConfig
from ms_infer.errors import CheckpointError
from ms_infer.files import whole_file
from ms_infer.model.image_encoder import ImageEncoder, image_encoder_of
from ms_infer.model.layers import LayerNetwork
from ms_infer.model.refiner import Refiner
from ms_infer.model.track_head import TrackHead
from ms_infer.model.transformer import Transformer
from ms_infer.model.vae import Vae
from ms_infer.model.word_encoder import WordEncoder

logger = logging.getLogger(__name__)

FORMAT = "ms_infer.student/1"
_FORMAT_FAMILY = FORMAT.split("/")[0]


@dataclass(frozen=True)
class Student:
    """A causal student: its settings and its modules, in eval mode and without gradients when loaded."""

    config: StreamConfig
    transformer: Transformer
    track_head: TrackHead | None = None
    text_encoder: WordEncoder | None = None
    vae: Vae | None = None
    refiner: Refiner | None = None
    layer_network: LayerNetwork | None = None
    image_encoder: ImageEncoder | None = None
    source: str = "memory"
    """Format that was recognised."""
    missing: tuple[str, ...] = ()
    """Parts that the settings ask for and the checkpoint does not hold (they are None)."""
    unused: tuple[str, ...] = ()
    """Names in the file that nothing was loaded from."""
    files: tuple[Path, ...] = ()
    """Every file that was read for it; none for a student made in memory."""
    choices: tuple[str, ...] = ()
    """What its weights depend on beside the files: the alpha given for an adapter, a dtype."""
    adapters: Adapters = dataclasses.field(default_factory=Adapters)
    """The adapters in its weights, with what is needed to change their strengths."""


@dataclass(frozen=True)
class _Contents:
    """What a file turned out to be: settings, tensors per part under our names, and what was left over."""

    config: StreamConfig
    parts: dict[str, dict[str, Tensor]]
    source: str
    unused: tuple[str, ...]
    origin: str
    origins: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Files of the parts that came from another one."""


def load_student(  # noqa: PLR0913 - one keyword a file
    path: str | Path,
    *,
    preset: str | StreamConfig | None = None,
    lora: str | Path | Sequence[str | Path] | None = None,
    lora_alpha: float | None = None,
    lora_rank: int | None = None,
    vae: str | Path | Sequence[str | Path] | None = None,
    image_encoder: str | Path | None = None,
    companions: Callable[[StreamConfig, Sequence[str]], Mapping[str, Path]] | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> Student:
    """Open a checkpoint: ours, Self-Forcing, LongLive, CausVid, Krea, Wan, diffusers or FastVideo WanTrack.

    path: .safetensors (one, or an index with shards), .pt/.pth, or a folder. preset: a name or whole settings, for
    files that do not tell them by their shapes; the sizes must agree, and a file of ours keeps its own settings.
    lora: adapters to merge, "FILE" or "FILE:strength" each, with alpha where their files do not state it; without any
    alpha the rank is taken. vae: a TAEHV or Wan VAE file for checkpoints without an autoencoder, or two: the encoder
    of the first goes with the decoder of the second; "FILE:raw" for a LightTAE without that in its name.
    image_encoder: Wan's CLIP file or an image_encoder/ folder, for models that read image tokens. companions: told
    the settings and the parts that the file holds, returns the files of "vae" and "image_encoder" that are not named.
    dtype: of all weights; None keeps that of every tensor.
    Weights stay memory-mapped where neither dtype nor device changes them.

    Raises CheckpointError, with nothing loaded, when the file is broken or hostile, when a weight is missing, has
    another shape or is not finite, or when the sizes are not those of the preset. A part that is absent as a whole
    is None and named in `missing`; names that were not needed are in `unused` and logged as a warning.
    """
    file = read_checkpoint(path)
    files, choices = [*file.files], [f"dtype {dtype}"] if dtype else []
    contents = _contents(file, preset)
    if companions is not None:
        beside = companions(contents.config, tuple(contents.parts))
        vae, image_encoder = vae or beside.get("vae", ()), image_encoder or beside.get("image_encoder")
    if sources := [with_latents(one) for one in ([vae] if isinstance(vae, str | Path) else vae or ())]:
        vaes = [(read_checkpoint(source), latents) for source, latents in sources]
        files += [name for one, _ in vaes for name in one.files]
        choices += [f"latents {latents}" for _, latents in vaes if latents]
        contents = _with_vae(contents, vaes)
    if image_encoder is not None:
        seen_by = read_checkpoint(image_encoder)
        files += seen_by.files
        contents = _with_image_encoder(contents, seen_by)
    adapters = Adapters()
    if given := [with_strength(source) for source in ([lora] if isinstance(lora, str | Path) else lora or ())]:
        weights = contents.parts["transformer"]
        read = [read_lora(source) for source, _ in given]
        files += [name for one in read for name in one.files]
        choices += [f"strength {strength} alpha {lora_alpha} rank {lora_rank}" for _, strength in given]
        entries = [fitted(weights, one, alpha=lora_alpha, rank=lora_rank) for one in read]
        merged, adapters = merge(weights, entries, [strength for _, strength in given], dtype)
        contents.parts["transformer"] = merged
    student = _assembled(contents, dtype, device)
    return dataclasses.replace(student, files=tuple(files), choices=tuple(choices), adapters=adapters)


def save_student(student: Student, path: str | Path, *, dtype: torch.dtype | None = None) -> None:
    """Write a student in our own format, whole or not at all.

    dtype: stored type of all weights; None keeps theirs. CheckpointError: NaN weights, no .safetensors suffix, a
    write that failed (an older file at `path` is then untouched).
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path} must end in .safetensors")
    tensors = {
        f"{part}.{name}": tensor.detach().to("cpu", dtype).contiguous()
        for part in PARTS
        if (module := getattr(student, part)) is not None
        for name, tensor in module.state_dict().items()
    }
    check_finite(tensors, f"cannot save {path}")
    metadata = {"format": FORMAT, "config": json.dumps(student.config.to_dict())}
    with whole_file(path, CheckpointError, failures=(OSError, SafetensorError)) as unfinished:
        save_file(tensors, unfinished, metadata)


def random_student(
    config: StreamConfig,
    seed: int = 0,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Student:
    """A student with seeded random weights: Gaussian / sqrt(fan in), norms 1, small biases.

    The values depend on seed and parameter name alone, not on dtype (but for rounding) or device.
    """
    modules: dict[str, Any] = {}
    for part in parts_of(config):
        tensors = random_tensors(part_shapes(part, config), f"{seed}.{part}", dtype, device)
        modules[part] = make_part(part, config, tensors, f"random {part}", dtype=dtype, device=device)
    return Student(config, **modules, source=f"random weights, seed {seed}")


def _contents(file: CheckpointFile, preset: str | StreamConfig | None) -> _Contents:
    if file.metadata.get("format", "").split("/")[0] == _FORMAT_FAMILY:
        return _own(file, preset)
    return _foreign(file, preset)


def _own(file: CheckpointFile, preset: str | StreamConfig | None) -> _Contents:
    if file.metadata["format"] != FORMAT:
        raise CheckpointError(f"{file.path} has the format {file.metadata['format']}; this version reads {FORMAT}")
    config = _own_config(file)
    parts: dict[str, dict[str, Tensor]] = {}
    rest = file.tensors
    for part in PARTS:
        inside, rest = split_prefix(rest, f"{part}.")
        if inside:
            parts[part] = inside
    sizes = dataclasses.replace(Sizes.of_tensors(parts.get("transformer", {})), heads=config.model.heads)
    check_sizes(sizes, config)
    if preset is not None:
        stream_config(sizes, {}, preset)
    return _Contents(config, parts, FORMAT, tuple(rest), str(file.path))


def _own_config(file: CheckpointFile) -> StreamConfig:
    try:
        return StreamConfig.from_dict(file.config)
    except (TypeError, ValueError, AttributeError, KeyError, ArithmeticError) as error:  # ConfigError is a ValueError
        raise CheckpointError(f"{file.path} holds settings that cannot work: {error}") from None


def _foreign(file: CheckpointFile, preset: str | StreamConfig | None) -> _Contents:
    names = [strip_wrappers(name) for name in file.tensors]
    kind = kind_of(names)
    if kind not in (STUDENT, None):
        raise CheckpointError(f"{file.path} is {kind.words}, not a Wan student; give it as {kind.option}")
    head, tensors = split_prefix(normalised(file.tensors), WANTRACK_PREFIX)
    sizes = Sizes.of_tensors(tensors)
    described = trusted(file, sizes)
    sizes = sizes.with_heads(described)
    config = stream_config(sizes, described, preset)
    if preset is None:
        config = with_recipe(config, file)
    if sizes.image_dim and preset is None:
        config = with_image_encoder(config, "crop" if is_diffusers(names) else "squash")
    parts = {"transformer": tensors}
    if head and config.model.track_head is not None:
        config = with_head_of(config, head, described.get("track_config"))
        parts["track_head"], head = wantrack_head(head)
    left_over = (*file.ignored, *(WANTRACK_PREFIX + name for name in head))
    return _Contents(config, parts, _recognised(file, names), left_over, str(file.path))


def _recognised(file: CheckpointFile, names: list[str]) -> str:
    """Words for the format of a foreign file."""
    naming = "diffusers" if is_diffusers(names) else "original"
    if any(name.startswith(WANTRACK_PREFIX) for name in names):
        return f"FastVideo WanTrack ({naming} names)"
    if file.outer.get("merged_lora") or "merged_lora" in str(file.outer.get("checkpoint_format", "")):
        return "LongLive 2 (merged LoRA)"
    kinds = {"generator_ema": "Self-Forcing", "generator": "Self-Forcing, LongLive or CausVid"}
    if file.wrapper and file.wrapper[-1] in kinds:
        return f"{kinds[file.wrapper[-1]]} ({file.wrapper[-1]})"
    if any(".to_qkv." in name for name in names):
        return f"fused projections, as Krea's ({naming} names)"
    return "diffusers WanTransformer3DModel" if naming == "diffusers" else "Wan (original names)"


def _with_vae(contents: _Contents, files: Sequence[tuple[CheckpointFile, Latents | None]]) -> _Contents:
    """The same contents with the autoencoder of another file, or of two."""
    config, tensors = vae_of(files)
    origin = " + ".join(str(file.path) for file, _ in files)
    wanted = contents.config.model.latent_channels
    if config.latent_channels != wanted:
        raise CheckpointError(
            f"{origin} is an autoencoder with {config.latent_channels} latent channels, the model has {wanted}; "
            "use the one of this Wan version"
        )
    model = dataclasses.replace(contents.config.model, vae=config)
    merged = dataclasses.replace(contents.config, model=model)
    parts = {**contents.parts, "vae": tensors}
    return dataclasses.replace(contents, config=merged, parts=parts, origins={**contents.origins, "vae": origin})


def _with_image_encoder(contents: _Contents, file: CheckpointFile) -> _Contents:
    """The same contents with the image encoder of another file."""

    model = contents.config.model
    if model.image_encoder is None:
        raise CheckpointError(f"{model.name} reads no image tokens; leave {file.path} out")
    own, tensors = image_encoder_of(file.tensors, file.config)
    if own.width != model.image_dim:
        raise CheckpointError(
            f"{file.path} is an image encoder of width {own.width}, the model reads {model.image_dim}; use CLIP's ViT-H"
        )
    own = dataclasses.replace(own, fit=model.image_encoder.fit)
    model = dataclasses.replace(model, image_encoder=own, image_tokens=own.tokens)
    return dataclasses.replace(
        contents,
        config=dataclasses.replace(contents.config, model=model),
        parts={**contents.parts, "image_encoder": tensors},
        origins={**contents.origins, "image_encoder": str(file.path)},
    )


def _assembled(contents: _Contents, dtype: torch.dtype | None, device: str | torch.device) -> Student:
    wanted = parts_of(contents.config)
    modules: dict[str, Any] = {}
    unused = list(contents.unused)
    for part, tensors in contents.parts.items():
        if part not in wanted:
            unused += [f"{part}.{name}" for name in tensors]
            continue
        needed = part_shapes(part, contents.config)
        unused += [name if part == "transformer" else f"{part}.{name}" for name in tensors if name not in needed]
        origin = contents.origins.get(part, contents.origin)
        modules[part] = make_part(part, contents.config, tensors, f"{origin}: {part}", dtype=dtype, device=device)
    if unused:
        logger.warning("%s: not used: %s", contents.origin, listed(unused))
    missing = tuple(part for part in wanted if part not in modules)
    if missing:
        logger.info("%s holds no %s", contents.origin, ", ".join(missing))
    logger.info("opened %s as %s, %s", contents.origin, contents.source, contents.config.model.name)
    return Student(contents.config, **modules, source=contents.source, missing=missing, unused=tuple(unused))
