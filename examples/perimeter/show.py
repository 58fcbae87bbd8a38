"""Shows questions in a terminal: what was asked, decided and owed on the left, the answer on the right; one below the other where it is narrow.

Plain ANSI colours, none where NO_COLOR is set or nobody looks. What comes from data is shown with its control characters spelled out.
"""

import os
import shutil
import sys
import textwrap
import unicodedata

WIDE, WIDEST, NARROWEST, ROWS = 100, 150, 40, 8
COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def is_coloured():
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def coloured(text, colour):
    return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m" if colour and is_coloured() else text


def harmless(text):
    """One line, in which nothing moves the cursor or reorders text."""
    return "".join(c if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") else f"\\u{ord(c):04x}" for c in str(text))


def width():
    return max(NARROWEST, min(WIDEST, shutil.get_terminal_size((WIDE, 24)).columns))


def wrapped(text, columns):
    return textwrap.wrap(harmless(text), columns, break_on_hyphens=False) or [""]


def block(heading, text, columns, colour=None):
    """Lines as (text, colour), each no longer than the columns."""
    lines = [(line, colour) for part in ([text] if isinstance(text, str) else text) for line in wrapped(part, columns - 2)]
    return [(heading, "bold")] + [("  " + line, colour) for line, colour in lines]


def table(names, rows, columns):
    """Rows below each other if they fit into the columns, else cut."""
    cells = [[harmless("" if value is None else value) for value in row] for row in [names, *rows[:ROWS]]]
    widths = [max(len(row[at]) for row in cells) for at in range(len(names))]
    while sum(widths) + 2 * len(widths) > columns and max(widths) > 6:
        widths[widths.index(max(widths))] -= 1

    def line(row):
        fitted = (value if len(value) <= wide else value[:wide - 1] + "…" for value, wide in zip(row, widths))
        return "  ".join(f"{value:<{wide}}" for value, wide in zip(fitted, widths)).rstrip()[:columns]
    shown = [(line(cells[0]), "cyan")] + [(line(row), None) for row in cells[1:]]
    return shown + ([(f"… {len(rows) - ROWS} more rows", "dim")] if len(rows) > ROWS else [])


def side_by_side(left, right, columns):
    half = columns // 2 - 2
    for at in range(max(len(left), len(right))):
        text, colour = left[at] if at < len(left) else ("", None)
        other, its_colour = right[at] if at < len(right) else ("", None)
        print((coloured(text, colour) + " " * (half - len(text)) + coloured(" │ ", "dim") + coloured(other, its_colour)).rstrip())


def question(number, of, who, asked, request, decision, obligations, answer, lesson, holds):
    """One question with all that became of it. `answer` is a function of the columns that it may take."""
    columns = width()
    wide = columns >= WIDE
    part = columns // 2 - 2 if wide else columns
    print(coloured("─" * columns, "dim"))
    for line in wrapped(f"{number}/{of}  {who}: {asked}", columns):
        print(coloured(line, "bold"))
    print()
    refused = decision.startswith("refused")
    left = block("request", request, part) + block("decision", decision, part, "red" if refused else "green")
    left += block("obligations", obligations or ["none"], part, "yellow" if obligations else "dim")
    right = [("answer", "bold")] + [("  " + text, colour) for text, colour in answer(part - 2)]
    if wide:
        side_by_side(left, right, columns)
    else:
        for text, colour in left + right:
            print(coloured(text, colour))
    print()
    verdict = "→ " + lesson if holds else "! Not as the demo's own rules would have it (were they changed?): " + lesson
    for line in wrapped(verdict, columns):
        print(coloured(line, None if holds else "red"))
    print(flush=True)
