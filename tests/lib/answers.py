"""Compares the rows of two databases, which give numbers and times in their own ways."""

import datetime
import decimal
import math

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def plain(value):
    """What is compared: the same for all ways to give a number or a time."""
    match value:
        case bool() | None | str():
            return value
        case decimal.Decimal() | float() | int():
            number = float(value)
            return "NaN" if math.isnan(number) else 0.0 if number == 0 else float(f"{number:.9g}")
        case datetime.datetime():
            at = value if value.tzinfo else value.replace(tzinfo=datetime.UTC)
            return (at.astimezone(datetime.UTC) - EPOCH).total_seconds()
        case datetime.date():
            return value.isoformat()
    return str(value)


def sorted_rows(rows):
    return sorted(rows, key=lambda row: [(value is None, str(type(value)), value if value is not None else 0) for value in row])


def difference(mine, other, ordered):
    mine, other = ([tuple(map(plain, row)) for row in rows] for rows in (mine, other))
    if not ordered:
        mine, other = sorted_rows(mine), sorted_rows(other)
    if len(mine) != len(other):
        return f"{len(mine)} rows, DuckDB has {len(other)}"
    for one, two in zip(mine, other):
        if one != two and not all(close(a, b) for a, b in zip(one, two)):
            return f"{one}, DuckDB has {two}"
    return None


def close(one, other):
    if isinstance(one, float) and isinstance(other, float) and not isinstance(one, bool):
        return math.isclose(one, other, rel_tol=1e-7, abs_tol=1e-7)
    return one == other
