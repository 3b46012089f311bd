"""Runs of training, as the page shows them: which there are below a folder, their numbers and previews."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

MOST_RUNS = 200
MOST_POINTS = 400
_DECILES = range(10)


def find_runs(root: Path | None) -> list[str]:
    """Return the runs below a folder, two levels deep, as paths relative to it, newest first."""
    if root is None or not root.is_dir():
        return []
    found: list[tuple[float, str]] = []
    for pattern in ("run.json", "*/run.json", "*/*/run.json"):
        for mark in root.glob(pattern):
            metrics = mark.parent / "metrics.jsonl"
            if metrics.is_file() and metrics.resolve().is_relative_to(root.resolve()):
                found.append((metrics.stat().st_mtime, str(mark.parent.relative_to(root))))
    return [name for _, name in sorted(found, reverse=True)][:MOST_RUNS]


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's `metrics.jsonl`; a last line that is still being written is left out."""
    rows = []
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def over_updates(rows: list[dict[str, Any]], names: tuple[str, ...]) -> pd.DataFrame:
    """Return some numbers of a run over its updates, thinned to what a plot can show.

    A plot keeps the names that it began with, so a number that the run does not have gets a point, which no line is
    drawn of.
    """
    every = max(1, len(rows) // MOST_POINTS)
    points = [
        {"update": row["step"], "value": float(row[name]), "what": name.partition("_")[2].replace("_", " ") or "all"}
        for row in rows[::-1][::every][::-1]
        for name in names
        if isinstance(row.get(name), (int, float))
    ]
    for name in names:
        what = name.partition("_")[2].replace("_", " ") or "all"
        if points and what not in {point["what"] for point in points}:
            points.append({**points[0], "what": what})
    return pd.DataFrame(points, columns=["update", "value", "what"])


def by_signal(rows: list[dict[str, Any]], name: str, over: int = 20) -> pd.DataFrame:
    """Return a number over tenths of the signal, the mean of the latest lines and of the first ones.

    Args:
        rows: of `read_metrics`.
        name: "loss" or "accuracy".
        over: lines to average.
    """
    points = []
    for when, part in (("first", rows[:over]), ("latest", rows[-over:])):
        for tenth in _DECILES:
            values = [row[f"{name}_decile_{tenth}"] for row in part if f"{name}_decile_{tenth}" in row]
            if values:
                points.append({"signal": tenth / 10 + 0.05, "value": sum(values) / len(values), "when": when})
    return pd.DataFrame(points, columns=["signal", "value", "when"])


def names_of(rows: list[dict[str, Any]], word: str) -> tuple[str, ...]:
    """Return the numbers of a run whose name begins with a word, those by signal left out."""
    named = {name for row in rows for name in row if name.split("_")[0] == word and "_decile_" not in name}
    return tuple(sorted(named))


def previews_of(run: Path) -> list[Path]:
    """Return the preview pictures of a run, in the order of their updates; links out of the run are left out."""
    found = sorted((run / "previews").glob("step-*.png"))
    return [path for path in found if path.resolve().is_relative_to(run.resolve())]


def update_of(preview: Path) -> int:
    """Return the update that a preview was drawn at."""
    return int(preview.stem.removeprefix("step-"))
