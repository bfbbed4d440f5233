"""The empirical family: the laws that a pool's own questions have, each smoothed a little.

Where right and wrong answers of one question score in two heaps, or scores pile up below 1, no
parametric family follows. This one does not assume a shape: a question to come is like one of the
questions seen (nonparametric empirical Bayes). A law is a train question's scores, each spread by a
hundredth of the scale, plus one more score spread by a tenth: what it has not shown yet is most likely
to lie near what it has shown.

A normal prior in the coordinates is taken relative to the normal that the questions themselves
follow, so the population's prior weighs all laws alike.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import gaussian_filter1d
from scipy.special import logit

from data.arrays import Array
from data.errors import ModelError, ScoreError, as_fault
from predictor.families import BINS, EMPIRICAL, Family, get_family, log_masses, register

MAX_LAWS = 1024  # more laws add little, and a decision's time goes with their number
_NEAR, _FAR = 0.01, 0.1  # standard deviations of the two kernels, in scores
_FARTHEST = 3.0  # deviations from the population up to which its density is divided out
_FILE = "family.json"


def fit_empirical(scores: ArrayLike) -> Family:
    """The family of the laws of these questions, registered under a digest of their scores.

    Parameters
    ----------
    scores : (questions, n) in [0, 1], NaN where there is none; of more than `MAX_LAWS` questions those with
        most scores are taken, which of equals at random.

    Raises
    ------
    ScoreError
        If no question has a score.
    """
    counts = get_family("beta").counts(scores)
    counts = counts[counts.sum(axis=1) > 0]
    if not len(counts):
        raise ScoreError("no question has a score, so there are no laws to learn: collect scored candidates")
    if len(counts) > MAX_LAWS:
        counts = np.random.default_rng(0).permutation(counts)
        counts = counts[np.argsort(-counts.sum(axis=1), kind="stable")[:MAX_LAWS]]
    family = _from_counts(counts)
    register(family)
    return family


def _from_counts(counts: Array) -> Family:
    drawn = counts.sum(axis=1, keepdims=True)
    near, far = (gaussian_filter1d(counts, w * BINS, axis=1, mode="reflect") for w in (_NEAR, _FAR))
    masses = ((near + far / drawn) / (drawn + 1)).T
    edges = get_family("beta").edges
    middle = (edges[:-1] + edges[1:]) / 2
    mean = middle @ masses
    variance = (middle**2) @ masses - mean**2
    points = np.stack([logit(mean), logit(variance / (mean * (1 - mean)))], axis=1)
    away = points - points.mean(axis=0)
    covariance = np.cov(away.T, bias=True) + 1e-4 * np.eye(2)
    square = np.einsum("li,ij,lj->l", away, np.linalg.inv(covariance), away)
    return Family(
        name=f"{EMPIRICAL}:{hashlib.sha256(counts.astype('<i4').tobytes()).hexdigest()[:12]}",
        points=points,
        edges=edges,
        log_mass=log_masses(masses),
        mean=mean,
        std=np.sqrt(variance),
        log_base=0.5 * np.minimum(square, _FARTHEST**2),
        made_of=counts,
    )


def save_family(name: str, directory: Path) -> None:
    """Write the scores that an empirical family is made of, as bins; of another family, nothing."""
    if not name.startswith(EMPIRICAL):
        return
    counts = get_family(name).made_of
    assert counts is not None
    bins = [np.repeat(np.arange(BINS), row.astype(int)).tolist() for row in counts]
    (directory / _FILE).write_text(json.dumps({"name": name, "bins": bins}, separators=(",", ":")))


def load_family(directory: Path) -> None:
    """Register the empirical family that was saved here, if one was.

    Raises
    ------
    ModelError
        If the file is not what was written.
    """
    file = directory / _FILE
    if not file.exists():
        return
    with as_fault(ModelError, f"{file} is not a score family", ValueError, KeyError, TypeError):
        document = json.loads(file.read_text())
        if not all(document["bins"]):
            raise ValueError("a law has no score")
        counts = np.array([np.bincount(row, minlength=BINS) for row in document["bins"]], dtype=float)
        family = _from_counts(counts)
    if family.name != document["name"]:
        raise ModelError(f"{file} was changed: it says {document['name']} and makes {family.name}")
    register(family)
