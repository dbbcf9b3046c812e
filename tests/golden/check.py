"""Compare rollouts with stored reference rollouts, driven by a case's JSON alone.

    python -m tests.golden.check [--weights FILE] [--dtype float64] CASE.safetensors ...

prints one JSON line a case: {"case", "max_abs_error", "passed"}; exit status 1 when one failed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ms_infer.config import ContextConfig, ModelConfig, ScheduleConfig, StreamConfig, TextConfig
from ms_infer.model.context import ContextCache
from ms_infer.model.rope import Rotation
from ms_infer.model.transformer import Transformer
from ms_infer.numerics.schedule import denoise_steps

FOLDER = Path(__file__).parent
TOLERANCE = 2e-5
SHARED_INPUTS = ("noise", "renoise", "text", "initial_latent")


@dataclass
class Case:
    """One stored rollout: its JSON, its tensors and the weights it was made with."""

    meta: dict[str, Any]
    data: dict[str, Tensor]
    weights: dict[str, Tensor]
    weights_config: dict[str, Any]

    @classmethod
    def load(cls, path: Path, weights: Path | None = None) -> Case:
        meta = json.loads(path.with_suffix(".json").read_text())
        data = load_file(path)
        if "inputs_from" in meta:
            for key, value in load_file(path.parent / meta["inputs_from"]).items():
                if key.split(".")[0] in SHARED_INPUTS:
                    data.setdefault(key, value)
        return cls(meta, data, load_file(weights or path.parent / meta["weights"]), meta["config"])

    def stream_config(self) -> StreamConfig:
        meta, wan = self.meta, self.weights_config
        chunk, local = meta["num_frame_per_block"], meta["local_attn_size"]
        total = meta["blocks"] * chunk + (meta.get("initial_frames") or 0)
        sink = meta["sink_size"] or 0
        height, width = meta["latent_hw"]
        opens_with_one = bool(meta.get("independent_first_frame")) and not meta.get("initial_frames")
        return StreamConfig(
            model=ModelConfig(
                name="golden",
                dim=wan["dim"],
                ffn_dim=wan["ffn_dim"],
                heads=wan["num_heads"],
                layers=wan["num_layers"],
                layout=(("noise", wan["in_dim"]),),
                freq_dim=wan["freq_dim"],
                eps=wan["eps"],
                text=TextConfig(tokens=wan["text_len"], dim=wan["text_dim"]),
            ),
            context=ContextConfig(
                chunk_frames=chunk,
                sink_frames=sink,
                window_frames=(total if local == -1 else local) - sink - chunk,
                first_chunk_frames=1 if opens_with_one else None,
                rope="relative" if "relative" in meta["rope"] else "absolute",
            ),
            schedule=ScheduleConfig(
                timesteps=tuple(meta["denoising_steps"]),
                warp=False,
                shift=meta.get("shift", 5.0),
                context_timestep=meta["context_noise"],
            ),
            height=height * 8,
            width=width * 8,
        )


class Rollout:
    """Replays a case and keeps the largest difference seen."""

    def __init__(self, case: Case, dtype: torch.dtype) -> None:
        self.case, self.dtype = case, dtype
        self.config = case.stream_config()
        self.model = Transformer(self.config.model).to(dtype).eval()
        self.model.load_state_dict({k: v.to(dtype) for k, v in case.weights.items()})
        self.cache = ContextCache(self.config, batch=case.meta["batch"], dtype=dtype)
        self.call = 0
        self.error = 0.0
        self.prompt = 0
        self.set_prompt(0)

    def tensor(self, name: str) -> Tensor:
        return self.case.data[name].to(self.dtype)

    def set_prompt(self, prompt: int) -> None:
        self.prompt = prompt
        text = torch.stack([self.tensor(f"text.p{prompt}b{b}") for b in range(self.case.meta["batch"])])
        self.keys = self.model.condition(text)

    def compare(self, got: Tensor, name: str) -> None:
        """Keep the largest difference; a value that is not finite counts as infinitely wrong.

        Some committed cases leave out flows of single calls: errors there reach later ones.
        """
        if name.startswith("call.") and name not in self.case.data:
            return
        error = (got - self.tensor(name)).abs().max().item()
        self.error = max(self.error, error if math.isfinite(error) else math.inf)

    def forward(self, x: Tensor, timestep: float) -> Tensor:
        """One pass over the frames last placed; compared with the stored call."""
        flow = self.model(x, torch.full(x.shape[:2], timestep, dtype=torch.float64), self.keys, self.cache)
        self.compare(flow, f"call.{self.call:03d}.flow")
        self.call += 1
        return flow

    def denoise(self, start: int, frames: int, first_noise: int, renoise: int) -> Tensor:
        """All passes of one chunk; returns its x0 `[B, frames, C, h, w]`."""
        self.cache.place_(start, frames)
        x = self.tensor("noise")[:, first_noise : first_noise + frames]
        steps = denoise_steps(self.config.schedule)
        for index, step in enumerate(steps):
            x0 = x - step.sigma * self.forward(x, step.timestep)
            if index + 1 < len(steps):
                noise = self.tensor(f"renoise.{renoise + index:03d}")
                x = (1 - step.next_sigma) * x0 + step.next_sigma * noise
        self.forward(x0, self.config.schedule.context_timestep)
        return x0

    def recache(self, latents: Tensor, end: int) -> None:
        """Re-run the context under the new prompt, in one pass."""
        frames = min(self.config.context.cache_frames, end)
        start = end - frames
        if start > self.cache.sink_start and not self.case.meta["global_sink"]:
            self.cache.replace_sink_(start)
        self.cache.place_(start, frames)
        self.forward(latents[:, start:end], self.config.schedule.context_timestep)

    def given_frames(self) -> list[Tensor]:
        """Write the given latent frames, chunk by chunk after a single first one."""
        given = self.case.meta.get("initial_frames") or 0
        done: list[Tensor] = []
        for call in self.case.meta["calls"]:
            start, frames = call["current_start_frame"], call["num_frames"]
            if start >= given:
                break
            self.cache.place_(start, frames)
            x = self.tensor("initial_latent")[:, start : start + frames]
            self.forward(x, call["timestep"])
            done.append(x)
        return done

    @torch.no_grad()
    def run(self) -> float:
        meta, context = self.case.meta, self.config.context
        done = self.given_frames()
        start = given = sum(x.shape[1] for x in done)
        switches = list(meta.get("switch_frame_indices") or [])
        renoise = 0
        for block in range(meta["blocks"]):
            if switches and start >= switches[0]:
                switches.pop(0)
                self.set_prompt(self.prompt + 1)
                self.recache(torch.cat(done, 1), start)
            frames = context.span(block).frames if not given else context.chunk_frames
            done.append(self.denoise(start, frames, start - given, renoise))
            renoise += len(self.config.schedule.timesteps) - 1
            start += frames
        assert self.call == len(meta["calls"]), f"made {self.call} calls, the case has {len(meta['calls'])}"
        self.compare(torch.cat(done, 1), "latents")
        self.compare_cache(start)
        return self.error

    def compare_cache(self, end: int) -> None:
        """The stored last layer, in slot order; relative cases store un-rotated keys."""
        layer = self.config.model.layers - 1
        stored = self.case.data.get(f"kv_final.layer{layer}.k")
        if stored is None:
            return
        frames = [frame for frame, _ in self.case.meta["calls"][-1]["slots"]]
        context, cells = self.config.context, self.config.tokens_per_frame
        slots = [context.place(f, 1, sink_start=self.cache.sink_start).slots[0] for f in frames]
        tokens = (torch.tensor(slots)[:, None] * cells + torch.arange(cells)).flatten()
        k, v = self.cache.k[layer][:, :, tokens], self.cache.v[layer][:, :, tokens]
        if context.rope == "relative":
            k = torch.cat([self.unrotated(part, i, frames) for i, part in enumerate(k.split(cells, dim=2))], 2)
        self.compare(k.transpose(1, 2), f"kv_final.layer{layer}.k")
        self.compare(v.transpose(1, 2), f"kv_final.layer{layer}.v")

    def unrotated(self, k: Tensor, place: int, frames: list[int]) -> Tensor:
        in_sink = place < self.config.context.sink_frames
        position = self.cache.placement.sink_position + place if in_sink else frames[place]
        rotation = Rotation(1, self.config.token_grid, self.config.model.head_dim, dtype=self.dtype)
        rotation.move_to_(position)
        rotation.sin.neg_()
        return rotation(k)


def check(path: Path, weights: Path | None = None, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Replay one case; the largest absolute difference over flows, latents and the last cache."""
    case = Case.load(path, weights)
    error = Rollout(case, dtype).run()
    return {"case": case.meta["case"], "max_abs_error": error, "passed": error <= TOLERANCE}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", type=Path)
    parser.add_argument("--weights", type=Path, help="weights to use instead of the case's own")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    options = parser.parse_args()
    passed = True
    for path in options.cases:
        result = check(path, options.weights, getattr(torch, options.dtype))
        print(json.dumps(result), flush=True)
        passed &= result["passed"]
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
