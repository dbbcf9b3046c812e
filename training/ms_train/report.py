"""The evaluation's tables in Markdown."""

from __future__ import annotations

from typing import Any

COLUMNS = (
    ("psnr", "PSNR dB"),
    ("ssim", "SSIM"),
    ("sharpness", "sharpness"),
    ("epe_object", "EPE objects, mean"),
    ("epe_object_median", "median"),
    ("epe_background", "EPE background, mean"),
    ("epe_background_median", "median"),
)


def markdown(result: dict[str, Any]) -> str:
    """Tables of one evaluation: one per set of clips, then the long rollout."""
    lines = [f"Command: `{result['command']}`", "", f"Tracker: {result['tracker']}; {result['clips']} clips a set.", ""]
    for name, table in result["sets"].items():
        lines += [f"## {name[0].upper()}{name[1:]}", "", "| method | " + " | ".join(t for _, t in COLUMNS) + " |"]
        lines += ["|---" * (len(COLUMNS) + 1) + "|"]
        lines += [
            f"| {method} | " + " | ".join(str(row[key]) for key, _ in COLUMNS) + " |" for method, row in table.items()
        ]
        first = next(iter(table.values()))
        lines += [
            "",
            f"Points that count: {first['points_object']} on objects, {first['points_background']} on the background.",
            "",
        ]
    if "drift" in result:
        lines += _drift(result["drift"])
    return "\n".join(lines) + "\n"


def _drift(drift: dict[str, Any]) -> list[str]:
    lines = [
        f"## {drift['frames']} frames in one stream",
        "",
        "| frames | offset px | sharpness | red | green | blue | offset, no sink | sharpness, no sink |",
    ]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for number, (row, other) in enumerate(zip(drift["student"], drift["without sink"], strict=True)):
        span = f"{number * drift['segment']}-{(number + 1) * drift['segment'] - 1}"
        colour = " | ".join(str(value) for value in row["colour"])
        lines.append(
            f"| {span} | {row['offset']} | {row['sharpness']} | {colour} | {other['offset']} | {other['sharpness']} |"
        )
    return [*lines, ""]
