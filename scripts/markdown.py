"""Markdown of figures: what several scripts tell alike."""


def table(head, rows):
    """A Markdown table."""
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [head, ["---"] * len(head), *rows])


def percent(share, digits=2):
    """A share from 0 to 1 as a figure in %, without the sign."""
    return f"{100 * share:.{digits}f}"


def interval(ends, digits=2):
    """Two ends of an interval, shares from 0 to 1, as figures in %."""
    return f"[{', '.join(percent(end, digits) for end in ends)}]"
