# SPDX-License-Identifier: LGPL-2.1-or-later
"""Purpose. Medians, percentiles, and how sure a ratio is. Pure."""
import random

RESAMPLES = 4000


def median(values):
    v = sorted(values)
    n = len(v)
    return v[n // 2] if n % 2 else (v[n // 2 - 1] + v[n // 2]) / 2


def percentile(values, percent):
    """The smallest value that so many percent of all are not above (nearest rank)."""
    v = sorted(values)
    return v[max(0, -(-len(v) * percent // 100) - 1)]


def summary(values):
    return {"median": median(values), "min": min(values), "max": max(values), "n": len(values)}


def ratio(a, b, seed=1):
    """median(a)/median(b) with its 95 % interval. Measured in turns, a[i] and b[i] had the same weather: rounds are drawn
    together, so that a drift that hits both does not widen the interval. Of different lengths: drawn apart."""
    rng = random.Random(seed)
    point = median(a) / median(b)
    drawn = []
    for _ in range(RESAMPLES):
        if len(a) == len(b):
            at = [rng.randrange(len(a)) for _ in a]
            x, y = [a[i] for i in at], [b[i] for i in at]
        else:
            x, y = rng.choices(a, k=len(a)), rng.choices(b, k=len(b))
        drawn.append(median(x) / median(y))
    drawn.sort()
    return {"ratio": point, "low": drawn[int(RESAMPLES * 0.025)], "high": drawn[int(RESAMPLES * 0.975)], "n": min(len(a), len(b))}
