"""Bar charts as SVG, without any library: a few groups of bars, each bar with its number over it."""

import html
import math

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 860, 320, 64, 64, 54
COLOURS = {"kafscale": "#1b6ca8", "kafka": "#d1495b", "tansu": "#66a182", "hardware": "#8d8d8d", "kafka, page cache": "#edae9b"}


def bars(title, unit, groups, log=False):
    """`groups` is [(label, [(series, value or None)])]; more than one colour stands for more than one system."""
    values = [value for _, entries in groups for _, value in entries if value]
    if not values:
        return None
    series = list(dict.fromkeys(name for _, entries in groups for name, _ in entries))
    low = min(values) / 2 if log else 0
    high = max(values) * (2 if log else 1.15)

    def height(value):
        share = math.log(value / low) / math.log(high / low) if log else value / high
        return max(1, share * (HEIGHT - TOP - BOTTOM))

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
           f'<text x="{LEFT}" y="22" font-size="15" font-weight="bold">{html.escape(title)}</text>',
           f'<text x="{WIDTH - 12}" y="22" text-anchor="end" fill="#555">{html.escape(unit)}{", logarithmic" if log else ""}</text>']
    for index, name in enumerate(series):
        x = LEFT + index * 150
        out.append(f'<rect x="{x}" y="34" width="12" height="12" fill="{COLOURS.get(name, "#999")}"/><text x="{x + 17}" y="45">{html.escape(name)}</text>')
    floor = HEIGHT - BOTTOM
    out.append(f'<line x1="{LEFT}" y1="{floor}" x2="{WIDTH - 12}" y2="{floor}" stroke="#333"/>')
    group_width = (WIDTH - LEFT - 12) / len(groups)
    for number, (label, entries) in enumerate(groups):
        left = LEFT + number * group_width
        bar = min(56, group_width * 0.8 / max(len(entries), 1))
        at = left + (group_width - bar * len(entries)) / 2
        out.append(f'<text x="{left + group_width / 2:.0f}" y="{floor + 18}" text-anchor="middle">{html.escape(label)}</text>')
        for name, value in entries:
            if value:
                top = floor - height(value)
                out.append(f'<rect x="{at + 1:.1f}" y="{top:.1f}" width="{bar - 2:.1f}" height="{floor - top:.1f}" fill="{COLOURS.get(name, "#999")}"/>')
                out.append(f'<text x="{at + bar / 2:.1f}" y="{top - 4:.1f}" text-anchor="middle" font-size="10">{short(value)}</text>')
            else:
                out.append(f'<text x="{at + bar / 2:.1f}" y="{floor - 4}" text-anchor="middle" font-size="10" fill="#999">none</text>')
            at += bar
    out.append("</svg>")
    return "\n".join(out) + "\n"


def short(value):
    if value >= 10_000:
        return f"{value / 1000:.0f}k"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
