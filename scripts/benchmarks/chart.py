"""The chart of the results, as an SVG: a bar for each peer, in a group for each model, with the geometric means."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from benchmarks import workload
from benchmarks.report import EXTRA, Results

COLORS = {
    "driver": "#9a9a9a",
    "tent": "#d1495b",
    "peewee": "#edae49",
    "sqlalchemy": "#00798c",
    "django": "#30638e",
    "pony": "#66a182",
    "sqlobject": "#8d6a9f",
    "tortoise": "#c98b5a",
}
WIDTH, BAR, GAP, LABEL = 900, 14, 16, 190
FACTS = ("held", "first", "graph", "follow")  # of the others, those that are rates


def chart(results: Results) -> str:
    """Return the SVG of all results."""
    body, height = [], GAP
    for title, rates in groups(results):
        body += list(_group(title, rates, height))
        height += (len(rates) + 2) * BAR + GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif"'
    return "\n".join([f'{head} font-size="11">', '<rect width="100%" height="100%" fill="white"/>', *body, "</svg>\n"])


def groups(results: Results) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the title of each group of bars, and the rates of its peers."""
    for database, suites in results.samples.items():
        for suite, by_peer in suites.items():
            if suite == EXTRA:
                for operation in FACTS:
                    found = {name: results.median(database, suite, name, operation) for name in by_peer}
                    yield f"{database}: {workload.TITLES[operation]}", _known(found)
            elif suite.startswith("model"):
                means = {name: results.mean(database, suite, name) for name in by_peer}
                yield f"{database}: {suite}, geometric mean", _known(means)


def _known(rates: dict[str, float | None]) -> dict[str, float]:
    return {name: rate for name, rate in rates.items() if rate is not None}


def _group(title: str, rates: dict[str, float], top: int) -> Iterator[str]:
    yield _text(8, top + BAR, f"{title} ({workload.RATE})", 'font-weight="bold"')
    longest = max(rates.values(), default=1.0)
    for place, (name, rate) in enumerate(sorted(rates.items(), key=lambda item: -item[1]), 1):
        y, width = top + BAR * place + 6, (WIDTH - LABEL - 70) * rate / longest
        yield _text(LABEL - 8, y + BAR - 4, name, 'text-anchor="end"')
        yield f'<rect x="{LABEL}" y="{y}" width="{width:.1f}" height="{BAR - 2}" fill="{COLORS[name]}"/>'
        yield _text(LABEL + width + 5, y + BAR - 4, f"{rate:,.1f}")


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y}" {more}>{escape(text)}</text>'
