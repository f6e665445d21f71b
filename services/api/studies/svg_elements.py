"""SVG elements of a plot."""

from __future__ import annotations

from html import escape


def make_text(x: float, y: float, text: str, *, anchor: str = "start", bold: bool = False) -> str:
    """In the colour of what holds it."""
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'


def make_line(
    x1: float,
    y1: float,
    x2: float,
    y2: float,
    colour: str,
    *,
    width: float = 1,
    opacity: float = 1.0,
    dashes: str | None = None,
) -> str:
    dash_attribute = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-width="{width}" stroke-opacity="{opacity}"{dash_attribute}/>'
    )


def make_dot(x: float, y: float, radius: float, colour: str, opacity: float, tooltip: str) -> str:
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}" '
        f'fill-opacity="{opacity}"><title>{escape(tooltip)}</title></circle>'
    )
