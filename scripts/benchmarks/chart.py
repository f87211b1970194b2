"""The chart of the results, as an SVG: a bar for each peer, in a group for each model, with the geometric means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from benchmarks import workload
from benchmarks.report import EXTRA, Results, is_model, shown

WIDTH, MARGIN, COLUMNS = 800, 20, 3
COLUMN = (WIDTH - 2 * MARGIN) / COLUMNS
LABEL, VALUE, ROW, BAR = 78, 52, 19, 14  # widths beside a bar; the heights of a bar with its gap, and without
TEXT, FAINT, TENT, OTHER, DRIVER = "#1f2328", "#59636e", "#c2410c", "#8fa8c4", "#d4d7db"
NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mariadb": "MariaDB", "tent": "tent.data"}
NAMES |= {"driver": "bare driver", "sqlalchemy": "SQLAlchemy", "sqlobject": "SQLObject"}  # others have a capital letter
MODELS = {"model 1": "Model 1: 3 columns", "model 2": "Model 2: with relations", "model 3": "Model 3: 35 columns"}
TITLE = "tent.data beside other libraries"
ABOUT = "Geometric means of operations A to K: longer is faster. The bare driver has no library on top of it."
OTHERS = ("held", "first", "graph", "follow", "one_change", "memory")
Group = tuple[str, str, dict[str, float], dict[str, str]]  # a title, the unit, the values of peers, and what they lack


def chart(results: Results, found: Mapping[str, Any]) -> str:
    """Return the SVG of results, and of what they were measured on."""
    drawing, lacking = Drawing(), dict[str, str]()
    drawing.line(20, TITLE, is_bold=True)
    drawing.line(12, ABOUT, FAINT, gap=14)
    for database, suites in results.samples.items():
        groups = [_means(results, database, suite) for suite in suites if is_model(suite)]
        drawing.section(_name(database), 14, groups)
        for *_, lacks in groups:
            lacking.update(lacks)
    if lacking:
        left_out = "; ".join(f"{_name(name)} is without {', '.join(letters)}" for name, letters in lacking.items())
        drawing.line(11, f"* The mean is over fewer operations: {left_out}.", FAINT, gap=18)
    measured = [database for database, suites in results.samples.items() if EXTRA in suites]
    for database in measured[:1]:
        drawing.section(f"Other operations, on {_name(database)}", 16, list(_others(results, database)))
    machine = found["machine"]
    place = f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, {machine['date']}"
    drawing.line(11, f"{place}. {found['rows']:,} rows, median of rounds: {found['rounds']}.", FAINT, gap=MARGIN)
    size = f'width="{WIDTH}" height="{drawing.y:.0f}" viewBox="0 0 {WIDTH} {drawing.y:.0f}"'
    font = 'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>\n<title>{TITLE}</title>'
    return "\n".join([head, '<rect width="100%" height="100%" fill="#ffffff"/>', *drawing.parts, "</svg>\n"])


def _means(results: Results, database: str, suite: str) -> Group:
    means = {name: results.mean(database, suite, name) for name in results.peers(database, suite)}
    known = {name: mean for name, mean in means.items() if mean is not None}
    return MODELS.get(suite, suite), workload.RATE, known, results.lacking(database, suite)


def _others(results: Results, database: str) -> Iterator[Group]:
    for operation in OTHERS:
        if row := results.row(database, EXTRA, operation):
            yield workload.TITLES[operation], workload.unit(operation), row, {}


def _name(name: str) -> str:
    return NAMES.get(name, name.capitalize())


class Drawing:
    """Elements below each other; `y` is where the next one begins."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.y: float = MARGIN

    def text(self, x: float, size: int, text: str, color: str, is_bold: bool = False, anchor: str = "start") -> None:
        style = f'font-size="{size}" font-weight="{700 if is_bold else 400}" fill="{color}" text-anchor="{anchor}"'
        self.parts.append(f'<text x="{x:.1f}" y="{self.y + size:.1f}" {style}>{escape(text)}</text>')

    def line(self, size: int, text: str, color: str = TEXT, is_bold: bool = False, gap: int = 8) -> None:
        self.text(MARGIN, size, text, color, is_bold)
        self.y += size + gap

    def section(self, title: str, size: int, groups: Sequence[Group]) -> None:
        """Draw groups beside each other, three in a row."""
        if groups:
            self.line(size, title, is_bold=True, gap=10)
        for start in range(0, len(groups), COLUMNS):
            top, bottom = self.y, self.y
            for place, group in enumerate(groups[start : start + COLUMNS]):
                self.y = top
                self.group(MARGIN + place * COLUMN, *group)
                bottom = max(bottom, self.y)
            self.y = bottom + 16

    def group(self, left: float, title: str, unit: str, values: Mapping[str, float], lacks: Mapping[str, str]) -> None:
        is_rate, longest = unit == workload.RATE, max(values.values(), default=1.0)
        self.text(left, 12, title, TEXT, is_bold=True)
        self.y += 15
        self.text(left, 10, unit if is_rate else f"{unit}; shorter is better", FAINT)
        self.y += 18
        for name, value in sorted(values.items(), key=lambda item: item[1], reverse=is_rate):
            color, is_tent = {"tent": TENT, "driver": DRIVER}.get(name, OTHER), name == "tent"
            x, width = left + LABEL, max(1.0, (COLUMN - LABEL - VALUE) * value / longest)
            self.parts.append(f'<rect x="{x:.1f}" y="{self.y}" width="{width:.1f}" height="{BAR}" fill="{color}"/>')
            text_color = TENT if is_tent else TEXT
            self.text(x - 6, 11, _name(name) + "*" * (name in lacks), text_color, is_tent, "end")
            self.text(x + width + 5, 11, shown(value), text_color, is_tent)
            self.y += ROW
