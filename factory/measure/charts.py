"""Figures as drawings inside a page: SVG with axes and ticks that can be read, names not cut.

Colours are classes of the page's style sheet, `real`, `control` and `drawn`, so that a drawing is
right in light and in dark.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDE, TEXT_PX, LETTER_PX = 560, 14, 7.6
"""Width of a drawing, size of its letters and about the width of one."""
ROW_PX, FOOT_PX, AIR_PX = 30, 46, 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Values from `low` to `high` onto pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Return the pixel of a value."""
        share = (value - self.low) / max(self.high - self.low, 1e-12)
        return round(self.start + share * (self.end - self.start), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A value and its interval."""

    low: float
    value: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A curve with its band: (x, value and interval), rising in x."""

    name: str
    kind: str
    """real, control or drawn."""
    points: tuple[tuple[float, Span], ...]


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round values between the ends, at most so many: steps of 1, 2 or 5 times a power.

    Raises:
        ValueError: ends that are no numbers.
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"an axis from {low} to {high}")
    span = max(high - low, 1e-9)
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * n for n in (1, 2, 5, 10, 20) if span / (power * n) <= most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(n * step, 10) for n in range(first, last + 1)]


def forest(rows: Mapping[str, Span], *, title: str) -> str:
    """Return differences with their intervals, one below the other, 0 marked."""
    ends = [0.0, *(v for each in rows.values() for v in (each.low, each.high))]
    axis = _across(ends, rows)
    drawn = [
        part
        for number, each in enumerate(rows.values())
        for part in _interval(axis, each, ROW_PX * number + ROW_PX / 2, "drawn")
    ]
    return _rows(axis, rows, drawn, title=title, zero=True)


def strip(rows: Mapping[str, Sequence[float]], kinds: Mapping[str, str], *, title: str) -> str:
    """Return every training as a dot and the mean as a line, arm by arm.

    Args:
        rows: values of each arm.
        kinds: of each arm: real, control or drawn.
        title: of the axis.
    """
    shown = {name: list(values) for name, values in rows.items() if values}
    axis = _across([v for values in shown.values() for v in values], shown)
    drawn = []
    for number, (name, values) in enumerate(shown.items()):
        y, kind = ROW_PX * number + ROW_PX / 2, kinds[name]
        drawn += [
            f'<circle class="{kind}" cx="{axis.at(v)}" cy="{y}" r="4" opacity="0.35"/>'
            for v in values
        ]
        mean = axis.at(sum(values) / len(values))
        drawn.append(
            f'<line class="{kind}" x1="{mean}" x2="{mean}" y1="{y - 9}" y2="{y + 9}"'
            ' stroke-width="4"/>'
        )
    return _rows(axis, shown, drawn, title=title)


def curve(lines: Sequence[Line], *, x_title: str, y_title: str) -> str:
    """Return curves over a logarithmic axis of counts, each with its band and its name at its end.

    A line of one point is a dot with its interval. Ticks of x are the counts that were asked for.
    """
    names = [line.name for line in lines]
    right, tall, left, foot = _letters(names) + 24, 340, 48, 290
    spans = [span for line in lines for _, span in line.points]
    low, high = min(s.low for s in spans), max(s.high for s in spans)
    edge = 0.04 * (high - low) or 0.01
    counts = sorted({x for line in lines for x, _ in line.points})
    y = Axis(low=low - edge, high=high + edge, start=foot, end=AIR_PX)
    x = Axis(low=math.log1p(counts[0]), high=math.log1p(counts[-1]), start=left + 20,
             end=WIDE - right)  # fmt: skip
    parts = [*_grid(y, left, right - 8)]
    parts += [
        f'<text x="{x.at(math.log1p(n))}" y="{foot + 20}" text-anchor="middle">{n:.0f}</text>'
        for n in _apart(counts, x)
    ]
    for line in lines:
        parts += _curve(line, x, y)
    parts += _names(lines, y, WIDE - right + 14)
    parts += _titles(x, foot, x_title)
    return _svg(parts, tall, f"{y_title} over {x_title}")


def scatter(
    points: Sequence[tuple[float, float]],
    line: Line | None,
    *,
    x_title: str,
    y_title: str,
    steps: bool = False,
) -> str:
    """Return points over a linear axis, and a line with its band; with `steps` joined by stairs."""
    left, tall, foot = 56, 300, 250
    spans = [span for _, span in (line.points if line else ())]
    low = min([*(y for _, y in points), *(span.low for span in spans)])
    high = max([*(y for _, y in points), *(span.high for span in spans)])
    edge = 0.05 * (high - low) or 0.01
    y = Axis(low=low - edge, high=high + edge, start=foot, end=AIR_PX)
    most = max(x for x, _ in points) or 1.0
    x = Axis(low=0.0, high=most, start=left + 12, end=WIDE - AIR_PX)
    parts = [*_grid(y, left), *_feet(x, foot)]
    if steps:
        before = points[0][1]
        stairs = []
        for at, value in points:
            stairs += [(at, before), (at, value)]
            before = value
        told = " ".join(f"{x.at(a)},{y.at(b)}" for a, b in stairs)
        parts.append(f'<polyline class="drawn" points="{told}" fill="none" stroke-width="2.5"/>')
    else:
        parts += [
            f'<circle class="real" cx="{x.at(a)}" cy="{y.at(b)}" r="4" opacity="0.5"/>'
            for a, b in points
        ]
    if line:
        parts += _band([(x.at(a), span) for a, span in line.points], line.kind, y)
    parts += _titles(x, foot, x_title)
    return _svg(parts, tall, f"{y_title} over {x_title}")


def bars(shares: Mapping[str, float], *, title: str) -> str:
    """Return a bar for each share, the greatest first."""
    ordered = dict(sorted(shares.items(), key=lambda each: -each[1]))
    most = max(ordered.values()) or 1.0
    axis = Axis(low=0.0, high=most, start=_letters(ordered) + 20, end=WIDE - AIR_PX)
    drawn = [
        f'<rect class="drawn" x="{axis.start}" y="{ROW_PX * n + 7}" height="{ROW_PX - 14}"'
        f' width="{axis.at(share) - axis.start:.1f}"/>'
        for n, share in enumerate(ordered.values())
    ]
    return _rows(axis, ordered, drawn, title=title)


def _curve(line: Line, x: Axis, y: Axis) -> Iterator[str]:
    """Yield a line's band, line and dots; each dot tells its figures."""
    places = [(x.at(math.log1p(n)), span) for n, span in line.points]
    if len(places) > 1:
        yield from _band(places, line.kind, y)
    for (at, span), (count, _) in zip(places, line.points, strict=True):
        told = f"{line.name}, {count:.0f}: {span.value:.3f} [{span.low:.3f}, {span.high:.3f}]"
        if len(places) == 1:
            yield (
                f'<line class="{line.kind}" x1="{at}" x2="{at}" y1="{y.at(span.low)}"'
                f' y2="{y.at(span.high)}" stroke-width="2.5"/>'
            )
        yield (
            f'<circle class="{line.kind}" cx="{at}" cy="{y.at(span.value)}" r="5">'
            f"<title>{escape(told)}</title></circle>"
        )


def _band(places: Sequence[tuple[float, Span]], kind: str, y: Axis) -> Iterator[str]:
    """Yield a line through places and the band around it."""
    up = [f"{at},{y.at(span.high)}" for at, span in places]
    down = [f"{at},{y.at(span.low)}" for at, span in reversed(places)]
    middle = " ".join(f"{at},{y.at(span.value)}" for at, span in places)
    yield f'<polygon class="{kind}" points="{" ".join(up + down)}" opacity="0.16"/>'
    yield f'<polyline class="{kind}" points="{middle}" fill="none" stroke-width="2.5"/>'


def _grid(y: Axis, left: float, right: float = AIR_PX) -> Iterator[str]:
    """Yield the lines of round values and their numbers, at the left."""
    for tick in ticks(y.low, y.high):
        yield (
            f'<line class="grid" x1="{left}" x2="{WIDE - right}" y1="{y.at(tick)}"'
            f' y2="{y.at(tick)}"/>'
            f'<text x="{left - 8}" y="{y.at(tick) + 5}" text-anchor="end">{tick:g}</text>'
        )


def _feet(x: Axis, foot: float) -> Iterator[str]:
    """Yield the numbers below the axis."""
    for tick in ticks(x.low, x.high):
        yield f'<text x="{x.at(tick)}" y="{foot + 20}" text-anchor="middle">{tick:g}</text>'


def _titles(x: Axis, foot: float, title: str) -> Iterator[str]:
    middle = (x.start + x.end) / 2
    yield f'<text x="{middle:.1f}" y="{foot + 44}" text-anchor="middle">{escape(title)}</text>'


def _names(lines: Sequence[Line], y: Axis, left: float) -> Iterator[str]:
    """Yield each line's name beside its last point, none over another."""
    last = sorted(
        ((y.at(line.points[-1][1].value), line) for line in lines), key=lambda each: each[0]
    )
    below = -math.inf
    for place, line in last:
        below = max(place, below + TEXT_PX + 3)
        yield (f'<text class="{line.kind}" x="{left}" y="{below + 5}">{escape(line.name)}</text>')


def _apart(counts: Sequence[float], x: Axis) -> Iterator[float]:
    """Yield the counts whose numbers do not touch the one before."""
    before = -math.inf
    for count in counts:
        place = x.at(math.log1p(count))
        if place - before > LETTER_PX * (len(f"{count:.0f}") + 1):
            before = place
            yield count


def _across(values: Sequence[float], rows: Mapping[str, object]) -> Axis:
    low, high = min(values), max(values)
    edge = 0.03 * (high - low) or 0.01
    return Axis(low=low - edge, high=high + edge, start=_letters(rows) + 20, end=WIDE - AIR_PX)


def _letters(names: Sequence[str] | Mapping[str, object]) -> float:
    """Return about the pixels of the longest name."""
    return LETTER_PX * max(map(len, names), default=0)


def _interval(axis: Axis, span: Span, y: float, kind: str) -> Iterator[str]:
    yield (
        f'<line class="{kind}" x1="{axis.at(span.low)}" x2="{axis.at(span.high)}" y1="{y}"'
        f' y2="{y}" stroke-width="3"/>'
    )
    yield f'<circle class="{kind}" cx="{axis.at(span.value)}" cy="{y}" r="6"/>'


def _rows(
    axis: Axis,
    names: Mapping[str, object],
    drawn: Sequence[str],
    *,
    title: str,
    zero: bool = False,
) -> str:
    """Return rows under their names over an axis with ticks."""
    foot = ROW_PX * len(names)
    parts = [
        f'<line class="grid" x1="{axis.at(t)}" x2="{axis.at(t)}" y1="0" y2="{foot}"/>'
        f'<text x="{axis.at(t)}" y="{foot + 18}" text-anchor="middle">{t:g}</text>'
        for t in ticks(axis.low, axis.high)
    ]
    if zero:
        parts.append(f'<line class="zero" x1="{axis.at(0)}" x2="{axis.at(0)}" y1="0" y2="{foot}"/>')
    parts += [
        f'<text class="name" x="{axis.start - 12}" y="{ROW_PX * n + ROW_PX / 2 + 5}"'
        f' text-anchor="end">{escape(name)}</text>'
        for n, name in enumerate(names)
    ]
    middle = (axis.start + axis.end) / 2
    parts.append(
        f'<text x="{middle:.1f}" y="{foot + FOOT_PX - 8}" text-anchor="middle">'
        f"{escape(title)}</text>"
    )
    return _svg([*parts, *drawn], foot + FOOT_PX, title)


def _svg(parts: Sequence[str], tall: float, label: str) -> str:
    return (
        f'<div class="wide"><svg class="figure" viewBox="0 0 {WIDE} {tall:g}" width="{WIDE}"'
        f' role="img" font-size="{TEXT_PX}" aria-label="{escape(label)}">{"".join(parts)}</svg>'
        "</div>"
    )
