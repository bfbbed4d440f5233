"""Years of 10,000 requests a day under the monitor's own tests; nothing here is a test.

    python -m tests.watching years 20      # counts false alarms in 20 simulated years, and 5 of wilder weeks
    python -m tests.watching changes 30    # explored requests until a change is told, middle of 30 runs

An hour (years) or half of one. The log is looked at each hour. Questions, scores, tokens and answers are the
shipped pool's: each of its questions stands for a kind, of which every request is a new one. A thousand users
differ in activity and in what they ask, are there on three days of ten, and repeat themselves; nights are
quiet, and weekends harder by three points of hits. The usual means are those of 500 requests of all of that.
"""

import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from data.folds import FoldSettings
from data.pool import Pool
from data.score_map import ScoreMap
from data.scores import load_scores
from predictor.certificate import Certificate
from predictor.goal import Goal
from predictor.policies import FixedN
from predictor.replay import replay
from predictor.selection import choose_weights
from predictor.settings import Margins, MonitorSettings
from predictor.usual import KNOTS, detectors, judge_of, loss_at, read
from predictor.vote_policies import Lead
from predictor.watch import HOURS, Usual

DAILY, EXPLORED, REPEATED = 10_000, 0.02, 0.2
CAP, TARGET, LOSE, KNOWN, SEEN, ORDERS = 32, 0.55, 0.03, 500, 900, 8
USERS, THERE, WEEKEND = 1000, 0.3, 0.03
RANKED = {"scores": "scores", "score_spread": "scores", "tokens": "tokens", "length": "length"}
Values = dict[str, np.ndarray]


class World:
    """Kinds of questions with what came of them, and users who ask."""

    def __init__(self, seed: int, weekend: float = WEEKEND) -> None:
        self.rng = np.random.default_rng(seed)
        kinds = KINDS
        self.activity = self.rng.lognormal(0, 1, USERS)
        self.tastes = self.rng.dirichlet(np.full(kinds.groups.max() + 1, 2.0), USERS).cumsum(axis=1)
        easy, hard = kinds.hits.mean(), np.average(kinds.hits.mean(axis=1), weights=kinds.hard)
        self.harder = weekend / (easy - hard)  # share of weekend requests that are of the harder kinds
        self.train = self.ask(np.arange(SEEN) % 7)
        self.ranks = {
            name: ScoreMap.fit(np.nanquantile(getattr(kinds, raw)[self.train], KNOTS))
            for name, raw in RANKED.items()
        }

    def ask(self, weekdays: np.ndarray) -> np.ndarray:
        """Kinds of requests, one for each given weekday; users are those who are there now."""
        kinds, count = KINDS, len(weekdays)
        there = self.activity * (self.rng.random(USERS) < THERE)
        users = self.rng.choice(USERS, count, p=there / there.sum())
        groups = (self.tastes[users] < self.rng.random((count, 1))).sum(axis=1).clip(max=kinds.groups.max())
        asked = kinds.first[groups] + self.rng.integers(kinds.sizes[groups])
        harder = self.rng.choice(len(kinds.hard), count, p=kinds.hard)
        change = (weekdays >= 5) & (self.rng.random(count) < self.harder)
        return np.where(change, harder, asked)

    def usual(self) -> dict[str, Usual]:
        """Estimated as `predictor.usual` does, on requests of many weeks."""
        kinds, asked = KINDS, np.concatenate([self.ask(np.array([n % 7])) for n in range(KNOWN)])
        found = {name: Usual.of(getattr(kinds, name)[asked, :4].mean(axis=1)) for name in ("hits", "changed")}
        found["failures"] = Usual.of(kinds.failures[asked].mean(axis=1))
        for name, raw in RANKED.items():
            values = read(name, getattr(kinds, raw)[asked], self.ranks[name])
            found[name] = Usual.of(values.mean(axis=1), self.ranks[name])
        return found

    def day(self, weekday: int) -> tuple[np.ndarray, Values, np.ndarray]:
        """Hours of a day's requests, each question once, their values as logged, and which were explored."""
        hours = np.sort((24 * self.rng.beta(2, 2, int(DAILY * (1 - REPEATED)))).astype(int))
        asked, kinds = self.ask(np.full(len(hours), weekday)), KINDS
        column, order = self.rng.integers(CAP, size=len(asked)), self.rng.integers(ORDERS, size=len(asked))
        values = {name: getattr(kinds, name)[asked, order] for name in ("hits", "changed", "lost")}
        values |= {name: getattr(kinds, raw)[asked, column] for name, raw in RANKED.items()}
        values["failures"] = kinds.failures[asked, column]
        return hours, values, self.rng.random(len(asked)) < EXPLORED / (1 - REPEATED)


class Kinds(NamedTuple):
    """The pool's questions, by group; arrays (kinds, candidates or orders)."""

    scores: np.ndarray
    tokens: np.ndarray
    length: np.ndarray
    failures: np.ndarray
    hits: np.ndarray
    changed: np.ndarray
    lost: np.ndarray
    groups: np.ndarray
    first: np.ndarray
    sizes: np.ndarray
    hard: np.ndarray
    """(kinds,) chance of being asked where a harder one is."""

    @classmethod
    def load(cls) -> "Kinds":
        table = load_scores(Pool.open("data/pool"), FoldSettings()).full(CAP)
        groups = np.unique(table.groups, return_inverse=True)[1]
        by_group = np.argsort(groups, kind="stable")
        shown, groups = table.candidates(CAP).select(by_group), groups[by_group]
        weighted = choose_weights(shown)
        policy = Lead(share=0.4, cap=CAP, target=TARGET, selection=weighted)
        held, losses = certificate(weighted), {"lost": [], "changed": [], "hits": []}
        for order in range(ORDERS):
            mixed = shown.shuffled(order)
            ran = replay(policy, mixed.scores, None, mixed.tokens, answers=mixed.answers)
            losses["hits"].append(ran.best >= TARGET)
            for name, kind in (("lost", "lost_accuracy"), ("changed", "changed")):
                losses[name].append(loss_at(judge_of(held, kind), policy, mixed, ran.drawn))
        by_order = {name: np.array(found, float).T for name, found in losses.items()}
        sizes = np.bincount(groups)
        hard = 1 - by_order["hits"].mean(axis=1)
        return cls(
            scores=shown.scores,
            tokens=shown.tokens,
            length=np.repeat(table.prompt_tokens[by_group][:, None], CAP, axis=1),
            failures=(table.status[by_group][:, :CAP] != "complete") * 1.0,
            groups=groups,
            first=sizes.cumsum() - sizes,
            sizes=sizes,
            hard=hard / hard.sum(),
            **by_order,
        )


def certificate(selection) -> Certificate:
    """What is promised."""
    values = {
        "contract": "c",
        "questions": KNOWN,
        "questions_digest": "d",
        "epsilon": {"lost_accuracy": LOSE},
    }
    reference = FixedN(target=TARGET, cap=CAP, selection=selection)
    more = {"delta": 0.1, "target": TARGET, "cap": CAP, "tried": (), "policy": reference, "groups": {}}
    goal = {"goal": Goal(lose=LOSE), "reference": reference}
    return Certificate(**values, **more, **goal, questions_needed=None, statement="")


def watch(
    world: World, days: int, change: Callable[[World, Values], Values] | None = None, begins: int = 10**9
) -> Iterator[tuple[int, str, float]]:
    """Each alarm: hour, statistic, explored requests since the hour ``begins``; its statistic begins anew."""
    settings, held = MonitorSettings(), certificate(FixedN().selection)
    usual = world.usual()
    now, since = detectors(held, usual, Margins()), 0.0
    for day in range(days):
        hours, values, explored = world.day(day % 7)
        changed = change(world, values) if change else values
        for hour in np.unique(hours):
            at, clock = hours == hour, 24 * day + hour
            shown = changed if clock >= begins else values
            since += explored[at].sum() * (clock >= begins)
            for name, one in now.items():
                rows = at & explored if name in ("lost", "changed") else at
                ranks = world.ranks.get(name)
                logged = read(name, shown[name][rows], ranks)
                now[name] = one = one.after(np.full(len(logged), clock), logged)
                if one.alarms(settings.alarms_a_year / len(now)):
                    yield clock, name, since
                    usual = world.usual()
                    now[name] = detectors(held, usual, Margins())[name]


def less(name: str, by: float) -> Callable[[World, Values], Values]:
    """A statistic that is 1 less often, or with a negative ``by`` more often."""

    def change(world: World, values: Values) -> Values:
        old, draw = values[name], world.rng.random(len(values[name]))
        rate = old.mean()
        new = np.where(draw < by / rate, 0, old) if by > 0 else np.where(draw < -by / (1 - rate), 1, old)
        return values | {name: new}

    return change


def rescored(new: Callable[[World, np.ndarray], np.ndarray]) -> Callable[[World, Values], Values]:
    """Another reward model's scores."""

    def change(world: World, values: Values) -> Values:
        return values | dict.fromkeys(("scores", "score_spread"), new(world, values["scores"]))

    return change


def _logit(scores: np.ndarray, by: float) -> np.ndarray:
    odds = np.log(scores.clip(0.001, 0.999) / (1 - scores.clip(0.001, 0.999))) + by
    return np.where(scores > 0, 1 / (1 + np.exp(-odds)), 0)


CHANGES = {
    "hit rate falls by 10 points": less("hits", 0.10),
    "hit rate falls by 3 points": less("hits", 0.03),
    "right answers lost on 10 points more": less("lost", -0.10),
    "right answers lost on 3 points more": less("lost", -0.03),
    "answers changed on 10 points more": less("changed", -0.10),
    "reward model: scores' odds doubled": rescored(lambda world, s: _logit(s, np.log(2))),
    "reward model: scores' odds halved": rescored(lambda world, s: _logit(s, -np.log(2))),
    "reward model: scores drawn half way to .5": rescored(lambda world, s: 0.25 + 0.5 * s),
    "reward model: another that knows nothing, same scores": rescored(
        lambda world, s: world.rng.permutation(s)
    ),
}


def years(count: int) -> None:
    """Print how many alarms there are where nothing changes."""
    for weekend, number in ((WEEKEND, count), (2 * WEEKEND, max(count // 4, 1))):
        found = []
        for year in range(number):
            found.append([name for _, name, _ in watch(World(year, weekend), round(HOURS / 24))])
            print(f"  weekend {weekend}, year {year}: {found[-1]}", file=sys.stderr, flush=True)
        alarms = sum(map(len, found))
        print(
            f"weekends harder by {100 * weekend:g} points: {alarms} false alarms in {number} years",
            flush=True,
        )


def changes(count: int) -> None:
    """Print the table of what changes two to three weeks after the start, and how soon it is told."""
    print("| from then on | told within 3 weeks | explored requests: middle | 90 % | by |")
    print("| --- | --- | --- | --- | --- |")
    for what, change in CHANGES.items():
        delays, by = [], []
        for run in range(count):
            world = World(10_000 + run)
            begins = int(24 * world.rng.uniform(14, 21))
            alarms = (a for a in watch(world, 42, change, begins) if a[0] >= begins)
            _, name, delay = next(alarms, (0, "", np.inf))
            delays.append(delay)
            by.append(name)
        middle, most = np.quantile(delays, [0.5, 0.9], method="higher")
        names = ", ".join(sorted(set(filter(None, by)), key=by.count, reverse=True))
        share = f"{np.isfinite(delays).mean():.0%}"
        print(f"| {what} | {share} | {middle:g} | {most:g} | {names} |", flush=True)


KINDS = Kinds.load()

if __name__ == "__main__":
    {"years": years, "changes": changes}[sys.argv[1]](int(sys.argv[2]))
