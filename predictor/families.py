"""Score families on a fixed grid: every law a question's scores may follow, as one table.

A family is a grid of laws and a table ``log_mass[bin, law]`` of log P(score in bin | law). Scores
are counted in bins, so ties, rounding and scores of exactly 0 or 1 need no special case, and the
log-likelihood of a question is a sum of rows. All families share two coordinates: the logit of the
mean, and the logit of the dispersion var / (mean (1 - mean)), which lies in (0, 1) for any law on
[0, 1]. A prior in these coordinates therefore means the same under every family.

The families here are parametric, their laws a grid in these coordinates; `predictor.empirical` makes
one of the laws that a pool's own questions have, and registers it under a name of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, expit

from data.arrays import Array
from data.errors import ConfigError

BINS = 200
# A law gives every bin at least this share of its mass: one odd score then costs some 20 nats at
# most and cannot rule a law out by itself.
FLOOR = 1e-6
IMPOSSIBLE = -1e4  # log weight of a law that is left out; finite, for it may be the only one
_LOGIT_MEAN = np.linspace(-6.0, 6.5, 51)
_LOGIT_DISPERSION = np.linspace(-7.0, 3.0, 31)
_EDGES = np.arange(BINS + 1) / BINS  # the doubles nearest to .005, .95, … as scores are written
_ATOMS = ((0.0, 0.0), (0.0, 0.6), (0.6, 0.0), (0.6, 0.6))
_NEWTON_STEPS = 20


@dataclass(frozen=True, eq=False)
class Family:
    """A grid of laws; see the module."""

    name: str
    points: Array
    """(laws, 2) logit of the mean and of the dispersion."""
    edges: Array
    """(bins + 1,) bin k holds scores in [edges[k], edges[k + 1]), the last one also 1."""
    log_mass: Array
    """(bins, laws) log P(score in bin | law)."""
    mean: Array
    """(laws,) mean score."""
    std: Array
    """(laws,) standard deviation of a score."""
    log_base: Array | float = 0.0
    """(laws,) log weight of each law under a flat prior; 0 for a grid."""
    made_of: Array | None = None
    """(laws, bins) counts of the scores that an empirical family is made of."""

    def bin(self, scores: ArrayLike) -> NDArray[np.int64]:
        """Bin of each score; any shape."""
        place = np.searchsorted(self.edges, np.asarray(scores, float), side="right") - 1
        return np.clip(place, 0, len(self.edges) - 2)

    def counts(self, scores: ArrayLike) -> Array:
        """(questions, bins) counts of scores (questions, n); NaN stands for no score."""
        scores = np.atleast_2d(np.asarray(scores, float))
        table = np.zeros((len(scores), len(self.edges) - 1))
        rows, columns = np.nonzero(~np.isnan(scores))
        np.add.at(table, (rows, self.bin(scores[rows, columns])), 1)
        return table

    def log_likelihood(self, scores: ArrayLike, others: bool = False) -> Array:
        """(questions, laws) log-likelihood of scores (questions, n); NaN stands for no score.

        With ``others`` a question that is itself a law of the family has a likelihood under the others alone.
        """
        likelihood: Array = self.counts(scores) @ self.log_mass
        if others:
            own = self.own_laws(scores)
            likelihood[own >= 0, own[own >= 0]] = IMPOSSIBLE
        return likelihood

    def own_laws(self, scores: ArrayLike) -> NDArray[np.int64]:
        """(questions,) law that was made of just these scores (questions, n), all of a question's; -1: none.

        Such a law knows beforehand what its question shows, as no law does of a question to come.
        """
        rows = () if self.made_of is None else self.made_of.astype(np.int32)
        made = {row.tobytes(): law for law, row in enumerate(rows)}
        counts = self.counts(scores).astype(np.int32)
        return np.array([made.get(row.tobytes(), -1) for row in counts], dtype=np.int64)

    def log_miss(self, target: float) -> Array:
        """(laws,) log P(score < target); the target must be an edge.

        Raises
        ------
        ConfigError
            If the target lies inside a bin, or outside (0, 1): a score of 1 shares the last bin.
        """
        at = int(np.abs(self.edges - target).argmin())
        if abs(self.edges[at] - target) > 1e-9 or not 0 < at < len(self.edges) - 1:
            raise ConfigError(
                f"target {target} is not one of the family's bin edges; give a multiple of "
                f"{1 / (len(self.edges) - 1):g} between 0 and 1"
            )
        hit = np.exp(self.log_mass[at:]).sum(axis=0)
        miss = np.exp(self.log_mass[:at]).sum(axis=0)
        # Whichever side is small carries the digits.
        return np.where(hit < 0.5, np.log1p(-np.minimum(hit, 0.5)), np.log(np.maximum(miss, 1e-300)))


Builder = Callable[[Array, Array], Array]
"""From means and dispersions (laws,) to the mass of every bin (bins, k x laws)."""


def _beta_masses(mean: Array, dispersion: Array) -> Array:
    total = 1 / dispersion - 1
    return np.diff(betainc(mean * total, (1 - mean) * total, _EDGES[:, None]), axis=0)


def _truncnorm_masses(mean: Array, dispersion: Array) -> Array:
    """Truncated normals in their general form, exp(a x + b x^2) on [0, 1] with b of either sign.

    With b < 0 it is the paper's law. With b > 0 it has two ends and a valley, and only so can it have
    every mean and variance: a plain truncated normal cannot spread wider than the uniform law around
    its mean. (a, b) is found by Newton steps on its convex dual, on three Gauss-Legendre nodes a bin.
    """
    nodes, weights = np.polynomial.legendre.leggauss(3)
    x = (_EDGES[:-1, None] + (nodes + 1) / 2 / BINS).ravel()
    log_weight = np.tile(np.log(weights / 2 / BINS), BINS)
    u = (x[:, None] - mean) / np.sqrt(mean * (1 - mean) * dispersion)  # moments to match: 0 and 1
    masses, tilt = np.empty_like(u), np.tile([0.0, -0.5], (len(mean), 1))

    def law(tilt: Array, u: Array) -> tuple[Array, Array]:
        log_density = (tilt[:, 0] + tilt[:, 1] * u) * u + log_weight[:, None]
        top = log_density.max(axis=0)
        density = np.exp(log_density - top)
        total = density.sum(axis=0)
        return density / total, top + np.log(total) - tilt[:, 1]

    # The last laws, whose mass is narrower than the nodes are apart, come as near as these allow.
    left = np.arange(len(mean))
    for _ in range(_NEWTON_STEPS):
        mass, dual = law(tilt[left], u[:, left])
        masses[:, left] = mass
        first, second, third, fourth = [(mass := mass * u[:, left]).sum(axis=0) for _ in range(4)]
        gradient = np.stack([first, second - 1], axis=1)
        rows = [second - first**2, third - first * second, fourth - second**2]
        hessian = np.stack(rows, axis=1)[:, [[0, 1], [1, 2]]] + 1e-9 * np.eye(2)
        bad = np.abs(gradient).max(axis=1) > 1e-6
        if not bad.any():
            break
        left, dual = left[bad], dual[bad]
        step = -np.linalg.solve(hessian[bad], gradient[bad, :, None])[:, :, 0]
        size = np.ones(len(left))
        for _ in range(30):
            _, tried = law(tilt[left] + size[:, None] * step, u[:, left])
            worse = ~(tried <= dual + 1e-12)
            if not worse.any():
                break
            size = np.where(worse, size / 2, size)
        tilt[left] += size[:, None] * step
    return masses.reshape(BINS, 3, -1).sum(axis=1)


def _atom_masses(mean: Array, dispersion: Array) -> Array:
    """Betas with atoms at 0 and 1: a law for each combination of `_ATOMS`, in blocks.

    The atoms hold a share of the most that mean and dispersion allow (all of it would leave a law of
    right and wrong alone); the beta between them takes up what remains of both moments.
    """
    blocks = []
    square = mean**2 + dispersion * mean * (1 - mean)
    for at_zero, at_one in _ATOMS:
        zero, one = at_zero * (1 - mean) * dispersion, at_one * mean * dispersion
        rest = 1 - zero - one
        inner = (mean - one) / rest
        spread = ((square - one) / rest - inner**2) / (inner * (1 - inner))
        masses = rest * _beta_masses(inner, np.clip(spread, 1e-6, 1 - 1e-6))
        masses[0] += zero
        masses[-1] += one
        blocks.append(masses)
    return np.concatenate(blocks, axis=1)


_BUILDERS: dict[str, Builder] = {
    "beta": _beta_masses,
    "truncnorm": _truncnorm_masses,
    "atoms": _atom_masses,
}
FAMILIES = tuple(_BUILDERS)
EMPIRICAL = "empirical"


@cache
def _build(name: str) -> Family:
    points = np.stack([g.ravel() for g in np.meshgrid(_LOGIT_MEAN, _LOGIT_DISPERSION)], axis=1)
    mean, dispersion = expit(points).T
    masses = _BUILDERS[name](mean, dispersion)
    copies = masses.shape[1] // len(points)
    std = np.sqrt(mean * (1 - mean) * dispersion)
    return Family(
        name,
        np.tile(points, (copies, 1)),
        _EDGES,
        log_masses(masses),
        np.tile(mean, copies),
        np.tile(std, copies),
    )


def log_masses(masses: Array) -> Array:
    """Log of masses (bins, laws) after the floor."""
    return np.log((1 - FLOOR) * masses + FLOOR / BINS)


_registered: dict[str, Family] = {}


def register(family: Family) -> None:
    """Make a family known by its name, which must be a digest of what it was made of."""
    _registered[family.name] = family


def get_family(name: str) -> Family:
    """The family of that name, its table built once.

    Raises
    ------
    ConfigError
        If there is no such family, or it was made from a pool and is not loaded.
    """
    if name in _BUILDERS:
        return _build(name)
    if name in _registered:
        return _registered[name]
    if name.startswith(EMPIRICAL):
        raise ConfigError(
            f"score family {name} was made from a pool and is not loaded; load the predictor or the bundle "
            "that it belongs to"
        )
    raise ConfigError(f"no score family {name!r}; there are {', '.join(FAMILIES)} and {EMPIRICAL}")
