"""The evaluation's tables in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ms_train.evaluate.measure import LAYERS_ALONE

Columns = Sequence[tuple[str, str]]
Table = Mapping[str, Mapping[str, float]]

PICTURES = (("psnr", "PSNR dB"), ("ssim", "SSIM"), ("sharpness", "sharpness"))
BACKGROUND = (("epe_background", "EPE background, mean"), ("epe_background_median", "median"))
SETS = (*PICTURES, ("epe_object", "EPE objects, mean"), ("epe_object_median", "median"), *BACKGROUND)
SWAPS = (
    ("epe_own", "EPE to its own tracks, mean"),
    ("epe_own_median", "median"),
    ("epe_other", "EPE to the other's, mean"),
    ("epe_other_median", "median"),
)
TRANSFER = (
    *PICTURES,
    ("epe_background", "EPE, mean"),
    ("epe_background_median", "median"),
    ("points_background", "points that count"),
)

REGIONS = (
    ("things", "things dB"),
    ("things_worst", "worst clip"),
    ("uncovered", "uncovered ground dB"),
    ("uncovered_worst", "worst clip"),
    ("shadow", "shadows dB"),
    ("whole", "picture dB"),
    ("sharpness", "sharpness of things"),
    ("texture_wins", "texture nearer than Telea's"),
)

ABLATION = """This is one checkpoint with inputs of its track head removed, not models trained without them. All rows
go through the decoder alone. "ids only": the still first frame, valid nowhere, in place of the moved one."""
REGION_WORDS = """Held-out drags under a resting camera; PSNR over the second half of 33 frames, mean of the clips: on
what moves, on the ground that it uncovers, in shadows (there or gone), on the whole picture. Sharpness is relative to
the truth's. Texture: share of clips whose uncovered ground is nearer to the truth in features of taef2's encoder."""
RESTED = """Least PSNR in dB, over all frames, to the first frame, or to the one just after the drag has ended."""
SWAPPED = """Two clips from one first frame, one caption and the same points; the objects go opposite ways. A point
counts where the two ways lie at least 4 px apart."""
TRANSFERRED = """Real clips, made again from their first frame and the tracks of a 12 x 12 grid in them (optical flow,
checked forward and backward). The EPE is against these tracks."""


def markdown(result: Mapping[str, Any]) -> str:
    """Tables of one evaluation: sets of clips, swapped tracks, ablation, real clips, the long rollout."""
    lines = [f"Command: `{result['command']}`", "", f"Tracker: {result['tracker']}; {result['clips']} clips a set.", ""]
    for name, table in result["sets"].items():
        lines += [f"## {name[0].upper()}{name[1:]}", "", *_table(table, SETS), "", _points(table), ""]
    if "regions" in result:
        lines += ["## Where a person looks", "", REGION_WORDS, "", *_table(result["regions"], REGIONS), ""]
    lines += ["## Tracks swapped", "", SWAPPED, "", *_table(result["swaps"], SWAPS), "", _points(result["swaps"]), ""]
    lines += ["## Track head with inputs removed", "", ABLATION, ""]
    for name, table in result["ablation"].items():
        lines += [f"### {name[0].upper()}{name[1:]}", "", *_table(table, SETS), ""]
    if result["transfer"]:
        lines += _transfer(result["transfer"])
    if "rest" in result:
        lines += _rest(result["rest"])
    if "drift" in result:
        lines += _drift(result["drift"])
    return "\n".join(lines).rstrip() + "\n"


def _table(table: Table, columns: Columns, first: str = "method") -> list[str]:
    """One row a method; a dash where it has no such number."""
    head = [f"| {first} | " + " | ".join(title for _, title in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    return head + [
        f"| {method} | " + " | ".join(str(row.get(key, "-")) for key, _ in columns) + " |"
        for method, row in table.items()
    ]


def _points(table: Table) -> str:
    """How many points the table's errors are taken over."""
    first = next(iter(table.values()))
    kinds = {"points_object": "on objects", "points_background": "on the background", "points_own": "on objects"}
    counted = [f"{first[key]} {label}" for key, label in kinds.items() if key in first]
    return f"Points that count: {', '.join(counted) or 'none'}."


def _transfer(transfer: Mapping[str, Any]) -> list[str]:
    """The mean over the real clips, then the methods on each."""
    lines = ["## Motion transfer", "", TRANSFERRED, "", f"Clips: {len(transfer['clips'])}. Their mean:", ""]
    lines += [*_table(transfer["mean"], TRANSFER), ""]
    for name, table in transfer["clips"].items():
        shown = {method: row for method, row in table.items() if method != "truth"}
        lines += [f"{name}:", "", *_table(shown, TRANSFER), ""]
    return lines


def _rest(rest: Mapping[str, Any]) -> list[str]:
    """The least PSNR of every picture, a column for each control and prompt."""
    ways = sorted({(run["control"], run["prompt"]) for run in rest["runs"]})
    columns = [(f"{control}/{prompt}", f"{control}, {prompt} prompt") for control, prompt in ways]
    table: dict[str, dict[str, float]] = {}
    for run in rest["runs"]:
        table.setdefault(run["picture"], {})[f"{run['control']}/{run['prompt']}"] = run["least"]
    table[f"{LAYERS_ALONE}, least of all"] = {
        f"{control}/{prompt}": rest["layers"][control] for control, prompt in ways
    }
    total = f"Kept at 34 dB or more: {100 * rest['kept']:.0f} % of the runs; least of all {rest['least']} dB."
    head = [f"## Left alone for {rest['frames']} frames", "", RESTED, "", total, ""]
    return [*head, *_table(table, columns, "picture"), ""]


def _drift(drift: Mapping[str, Any]) -> list[str]:
    lines = [
        f"## {drift['frames']} frames in one stream",
        "",
        "| frames | offset px | sharpness | red | green | blue | offset, no sink | sharpness, no sink "
        f"| offset, {LAYERS_ALONE} | sharpness |",
    ]
    lines += ["|---" * 10 + "|"]
    parts = (drift["student"], drift["without sink"], drift[LAYERS_ALONE])
    for number, (row, other, moved) in enumerate(zip(*parts, strict=True)):
        span = f"{number * drift['segment']}-{(number + 1) * drift['segment'] - 1}"
        colour = " | ".join(str(value) for value in row["colour"])
        lines.append(
            f"| {span} | {row['offset']} | {row['sharpness']} | {colour} | {other['offset']} | {other['sharpness']} "
            f"| {moved['offset']} | {moved['sharpness']} |"
        )
    lines.append("")
    for name, numbers in drift["summary"].items():
        if numbers:
            lines.append(_ends(name, numbers))
    return [*lines, ""]


def _ends(name: str, numbers: Mapping[str, float]) -> str:
    offset = f"offset x {numbers['offset_ratio']}, " if "offset_ratio" in numbers else ""
    return (
        f"- {name}, last 200 frames beside the first 200: {offset}sharpness {numbers['sharpness_percent']:+} %, "
        f"colour {numbers['colour_percent']:+} %"
    )
