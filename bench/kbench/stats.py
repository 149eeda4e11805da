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


def _interval(drawn):
    drawn.sort()
    return {"low": drawn[int(len(drawn) * 0.025)], "high": drawn[int(len(drawn) * 0.975)]}


def above(a, b, seed=1):
    """median(a) - median(b), not measured in turns, with its 95 % interval; shaped as a ratio is."""
    rng = random.Random(seed)
    drawn = [median(rng.choices(a, k=len(a))) - median(rng.choices(b, k=len(b))) for _ in range(RESAMPLES)]
    return {"ratio": median(a) - median(b), "n": min(len(a), len(b)), **_interval(drawn)}


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
    return {"ratio": point, "n": min(len(a), len(b)), **_interval(drawn)}
