"""Format numbers for reports: one decimal, or two if a value is below 1 in magnitude."""

from collections.abc import Iterable


def find_decimals(values: Iterable[float | None]) -> int:
    """Return the decimals for values shown together: two if one of them is below 1 in magnitude, else one."""
    return 2 if any(value is not None and abs(value) < 1 for value in values) else 1


def write_value(value: float | None, decimals: int | None = None) -> str:
    """Return e.g. "57.3" or "0.42"; a dash for None."""
    if value is None:
        return "–"
    return f"{value:.{find_decimals([value]) if decimals is None else decimals}f}".replace("-", "−")


def write_difference(value: float | None, decimals: int | None = None) -> str:
    """Return e.g. "+1.2" or "−0.42"; a dash for None."""
    text = write_value(value, decimals)
    return text if value is None or value < 0 else f"+{text}"


def write_mean(mean: float | None, interval: tuple[float, float] | None) -> str:
    """Return e.g. "57.32 (57.10 to 57.54)", with the decimals that half the interval's width needs."""
    if mean is None or interval is None:
        return write_value(mean)
    decimals = find_decimals([mean, (interval[1] - interval[0]) / 2])
    low, high = (write_value(value, decimals) for value in interval)
    return f"{write_value(mean, decimals)} ({low} to {high})"


def write_p(p: float | None) -> str:
    """Return a p-value with two significant digits; "< 0.001" below that; a dash for None."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"
