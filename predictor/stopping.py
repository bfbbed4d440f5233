"""Rules that stop by what the answers say, and a rule that was learned on public pools.

All are asked at the totals of a schedule of rounds (`totals`), for a round costs latency.
"""

from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Self

import numpy as np
from pydantic import AfterValidator, model_validator

from data.arrays import Array, IntArray
from data.errors import ConfigError
from data.record import Record
from data.validation import parse
from predictor.votes import FEATURES

RULES = Path(__file__).parent / "rules"
GROWTH = 1.5
CHUNK = 4096  # rows that go down the trees together


def totals(cap: int, start: int = 1, growth: float = GROWTH) -> IntArray:
    """Candidates in all after each round: each ``growth`` times the one before, at least one more."""
    found = [min(start, cap)]
    while found[-1] < cap:
        found.append(min(cap, max(found[-1] + 1, round(found[-1] * growth))))
    return np.array(found)


def fixed_sizes(cap: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, 24, … and the cap."""
    powers = [2**k for k in range(cap.bit_length())]
    return sorted({n for power in powers for n in (power, power * 3 // 2) if n < cap} | {cap})


class Trees(Record):
    """A sum of regression trees as arrays; JSON in and out."""

    base: float
    feature: tuple[tuple[int, ...], ...]
    """(trees, nodes) column that a node compares; -1 in a leaf."""
    threshold: tuple[tuple[float, ...], ...]
    """A row goes left where its column is at most this."""
    left: tuple[tuple[int, ...], ...]
    right: tuple[tuple[int, ...], ...]
    value: tuple[tuple[float, ...], ...]
    """What a leaf adds."""

    @model_validator(mode="after")
    def _nodes_agree(self) -> Self:
        for tree in zip(self.feature, self.threshold, self.left, self.right, self.value, strict=True):
            size = len(tree[0])
            if not size or {len(column) for column in tree} != {size}:
                raise ValueError("a tree's columns differ in length, or are empty")
            inner = [node for node, feature in enumerate(tree[0]) if feature >= 0]
            if any(not node < side[node] < size for node in inner for side in tree[2:4]):
                raise ValueError("a node of a tree does not lead to a later one")
        return self

    @cached_property
    def _nodes(self) -> tuple[IntArray, IntArray, Array, IntArray, Array, int]:
        """Roots; column, threshold, children and value of all trees' nodes; the longest way down.

        A leaf leads to itself.
        """
        sizes = np.array([len(tree) for tree in self.feature])
        roots = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        columns = (self.feature, self.threshold, self.value, self.left, self.right)
        feature, threshold, value, left, right = (np.concatenate(list(map(np.array, c))) for c in columns)
        own = np.arange(len(feature))
        sides = np.where(feature < 0, own, np.stack([left, right]) + np.repeat(roots, sizes))
        depth = np.zeros(len(feature), int)
        for node in own[feature >= 0]:  # children come after their parent
            depth[sides[:, node]] = depth[node] + 1
        return roots, np.maximum(feature, 0), threshold, sides, value, int(depth.max())

    def predict(self, rows: Array) -> Array:
        """(n,) sums for (n, features)."""
        roots, feature, threshold, (left, right), value, depth = self._nodes
        sums = np.empty(len(rows))
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            at, node = np.arange(len(part))[:, None], np.repeat(roots[None], len(part), axis=0)
            for _ in range(depth):
                node = np.where(part[at, feature[node]] <= threshold[node], left[node], right[node])
            sums[start : start + CHUNK] = self.base + value[node].sum(axis=1)
        return sums


class Source(Record):
    """A pool that a rule was learned on."""

    name: str
    family: str
    """Pools of one family are of one set of questions; families weigh alike."""
    source: str
    """Where it was published."""
    commit: str | None = None
    licence: str
    questions: int
    candidates: int
    """A question."""


class StoppingRule(Record):
    """Accuracy still to be gained by going on to the cap, from the shares of a vote; JSON in and out."""

    version: int = 1
    name: str
    features: tuple[str, ...] = FEATURES
    trees: Trees
    sources: tuple[Source, ...]

    @model_validator(mode="after")
    def _features_are_known(self) -> Self:
        if self.features != FEATURES:
            raise ValueError(f"it reads {', '.join(self.features)}; this release has {', '.join(FEATURES)}")
        return self

    def gain(self, features: Array) -> Array:
        """(questions, n) expected gain in accuracy of going on; features (questions, n, `FEATURES`)."""
        return self.trees.predict(features.reshape(-1, features.shape[-1])).reshape(features.shape[:-1])


@cache
def load_rule(name: str) -> StoppingRule:
    """A rule that comes with the product, the one in a file, or the one whose JSON this is.

    Raises
    ------
    ConfigError
        If there is none of that name, or the file is no rule of this release.
    """
    if name.startswith("{"):
        return parse(name, StoppingRule, ConfigError, "what a policy holds is no stopping rule")
    file = RULES / f"{name}.json" if (RULES / f"{name}.json").exists() else Path(name)
    try:
        document = file.read_text()
    except OSError as error:
        known = ", ".join(sorted(path.stem for path in RULES.glob("*.json")))
        raise ConfigError(
            f"no stopping rule {name!r} ({error.strerror}); there are {known}, or give a file"
        ) from error
    return parse(document, StoppingRule, ConfigError, f"{file} is no stopping rule")


def held(rule: StoppingRule) -> str:
    """What a policy keeps of a rule: the name of one that comes with the product, else its JSON.

    A policy is certified here and stops elsewhere, where a file need not be.
    """
    text = rule.model_dump_json()
    shipped = (RULES / f"{rule.name}.json").exists() and load_rule(rule.name).model_dump_json() == text
    return rule.name if shipped else text


RuleText = Annotated[str, AfterValidator(lambda name: held(load_rule(name)))]
"""`held` of a rule that is named in any of the ways of `load_rule`."""
