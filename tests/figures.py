"""Figures that documents quote, made anew by one command each; nothing here is a test.

    python -m tests.figures published-math FILE [option ...]

fits on four fifths of the questions with the project's own commands, and holds the result against the
last fifth (by hash of the question's id). Options are handed to ``optscale train``, for example
``--set 'predictor.compare=[population,text,states]'``.

    python -m tests.figures own-pool

fits every kind without a trained network on train and tune questions of the shipped pool, and holds it
against the test questions; fits the states kind on fewer; leaves out one group at a time, whole; and says
what each kind is worth in decisions on all questions, each predicted from the others.

    python -m tests.figures own-pool-lora

leaves out the same groups for LoRA.

    python -m tests.figures own-pool-states

reads the pool's questions with the solver and with the reward model instead of the plain backbone.

    python -m tests.figures pool-worth POOL TARGET [BACKBONE ...]

says what states of the default backbone and of others are worth in decisions on a pool, on four divisions.

    python -m tests.figures own-pool-draws

fits on all candidates of train questions, on few of most of them, and on all of few questions: the tokens,
how well each foretells test questions, and what is certified.

    python -m tests.figures own-pool-scores

tells how well the pool's scores select answers, by kind of question and by aggregation of step scores.
"""

import gzip
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from scipy.stats import norm, spearmanr

from data.contract import Aggregation
from data.folds import FoldSettings
from data.pool import Pool
from data.question import Question
from data.scores import BLANKS, ScoreTable, load_scores, tabulate
from flows.config import Config
from flows.draw_plan import choose_few
from flows.examine import assess_priors, population_priors
from models.generator.local import LocalGenerator
from models.reward.local import LocalRewardModel
from models.settings import LocalGeneratorSettings, LocalRewardSettings
from predictor.assessment import SHIPPED
from predictor.empirical import fit_empirical
from predictor.families import get_family
from predictor.learned.base import Fold, Predictor
from predictor.learned.card import REFIT
from predictor.learned.comparison import score_priors
from predictor.learned.features import DistanceFeatures
from predictor.learned.kernel_predictor import KernelPredictor
from predictor.learned.normals import make_priors
from predictor.learned.out_of_distribution import OutOfDistribution
from predictor.learned.regression import Regression, choose_weights, mix, moments
from predictor.learned.settings import KINDS, PredictorSettings
from predictor.learned.states import FrozenStates
from predictor.learned.store import load_predictor
from predictor.prior import Prior, PriorBatch, fit_population, log_evidence
from predictor.prior_value import PriorValue, measure_prior_value
from predictor.replay import bootstrap
from predictor.reward_quality import selection_accuracy, within_question_auc
from predictor.scored_questions import ScoredQuestions
from tests.helpers import fit_lora

TARGET = 0.95
GROUPS = ("story", "terms6", "terms2-digits3")


def optscale(*arguments: str) -> str:
    """Run the command line in a process of its own; returns what it printed."""
    command = [sys.executable, "-W", "ignore", "-c", "from flows.cli import main; main()", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def is_held_out(question: Question) -> bool:
    """A fifth of all questions, by hash of the id."""
    return int(hashlib.sha256(f"held-out:{question.id}".encode()).hexdigest()[:8], 16) / 16**8 < 0.2


def published_math(file: str, *options: str) -> None:
    records = [json.loads(line) for line in gzip.decompress(Path(file).read_bytes()).splitlines()]
    asked = {Question.ask(r["problem"]).id: r for r in records}
    held = [r for r in asked.values() if is_held_out(Question.ask(r["problem"]))]
    kept = [r for r in asked.values() if not is_held_out(Question.ask(r["problem"]))]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part, lines in (("train", kept), ("held", held)):
            (folder / f"{part}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
        started = time.perf_counter()
        pool, output = str(folder / "pool"), str(folder / "predictor")
        optscale("import-pool", "--format", "scores", "--input", str(folder / "train.jsonl"), "--pool", pool)
        target = f"policy.target={TARGET}"
        optscale("train", "--pool", pool, "--output", output, "--set", target, *options)
        print(f"trained in {(time.perf_counter() - started) / 60:.0f} minutes")
        questions = str(folder / "held.jsonl")
        rows = json.loads(optscale("predict", "--json", "--predictor", output, "--questions", questions))
        priors = [Prior.model_validate(row["prior"]) for row in rows]
        card = load_predictor(output).card
        for r in card.compared:
            print(f"tune: {r.kind:12s} behind {r.behind:.3f} ± {r.behind_error:.3f}, hits {r.hit_score:.4f}")
        print(
            f"recommended: {card.kind}, {card.settings.family}; {len(kept)} questions, {len(held)} held out"
        )
        ours = show(card.kind, priors, held)
        alone = load_predictor(output)
        show(
            f"{card.kind}, train and tune only",
            alone.predict([Question.ask(r["problem"]) for r in held]),
            held,
        )
        whole = load_predictor(Path(output) / REFIT) if (Path(output) / REFIT).exists() else alone
        baselines(whole, kept, held, ours)


def own_pool(location: str = "data/pool") -> None:
    table = load_scores(Pool.open(location), FoldSettings())
    fold, test = table.fold("train", "tune"), table.fold("test")
    family = fit_empirical(table.fold("train").scores).name
    settings = PredictorSettings(family=family)
    states = FrozenStates.load(settings, cache=Path(".optscale/states"))
    observed, hits = test.scores.mean(axis=1), {}
    target = Config().policy.target
    for kind in list(KINDS)[:-1]:
        model = fit_kind(kind, fold, settings, states)
        priors = model.predict(test.questions)
        means = PriorBatch.of(priors).moments[0]
        rank = spearmanr(observed, means).statistic if np.ptp(means) > 1e-9 else 0.0
        hits[kind] = score_priors(priors, test.scores, target).hit
        own = model.predict(fold.questions)
        covered = ", ".join(f"{100 * c:.1f}" for c in coverage(own, fold.scores))
        print(
            f"{kind:12s} rank correlation with the mean score {rank:.3f}; "
            f"log score of 1{{score >= {target}}} {hits[kind].mean():.4f}; "
            f"50/80/95 % intervals of {len(fold)} left-out questions cover {covered} %",
            flush=True,
        )
    for kind in list(KINDS)[:-2]:
        gain = bootstrap(hits["states"] - hits[kind])
        print(f"states over {kind:12s} {gain.mean:.4f} ({gain.low:.4f} to {gain.high:.4f})")
    learning_curve(fold, test, settings, states)
    left_out_groups(fold, settings, states)
    worth_of_kinds(table, settings, states)


def learning_curve(fold: Any, test: Any, settings: Any, states: Any) -> None:
    """The states kind fitted on some of the questions."""
    order, target = np.random.default_rng(0).permutation(len(fold)), Config().policy.target
    for count in (len(fold) // 8, len(fold) // 4, len(fold) // 2, len(fold)):
        some = np.isin(np.arange(len(fold)), order[:count])
        priors = fit_kind("states", fold.select(some), settings, states).predict(test.questions)
        found = score_priors(priors, test.scores, target)
        rank = spearmanr(test.scores.mean(axis=1), PriorBatch.of(priors).moments[0]).statistic
        print(
            f"states of {count} questions: rank correlation {rank:.3f}, log score {found.hit.mean():.4f}, "
            f"evidence {found.evidence.mean():.3f}",
            flush=True,
        )


def worth_of_kinds(table: Any, settings: Any, states: Any) -> None:
    """Each kind fitted on all questions, each predicted from the others; policies found on the other half."""
    whole = table.full(Config().policy.cap)
    for kind in list(KINDS)[1:-1]:
        tell_worth(kind, kind, whole, settings, states)


def pool_worth(location: str, target: str, *backbones: str) -> None:
    """The same of the states kind on four divisions, with the default backbone and with others."""
    table = load_scores(Pool.open(location), FoldSettings()).full(Config().policy.cap)
    settings = PredictorSettings(family=fit_empirical(table.scores).name)
    for backbone in (settings.backbone, *backbones):
        asked = settings.model_copy(update={"backbone": backbone})
        states = FrozenStates.load(asked, cache=Path(".optscale/states"))
        tell_worth(backbone, "states", table, asked, states, float(target), divisions=4)


def tell_worth(
    name: str,
    kind: Any,
    whole: Any,
    settings: Any,
    states: Any,
    target: float = Config().policy.target,
    divisions: int = 1,
) -> None:
    model = fit_kind(kind, whole, settings, states)
    priors = model.predict(whole.questions)
    reading = float(np.mean([model.tokens_read(q) for q in whole.questions]))
    for seed in range(divisions):
        found = worth(whole, priors, model.card.population, reading, target, seed)
        print(f"{name}, division {seed}: {found.statement}", flush=True)


def worth(
    whole: Any,
    priors: list[Prior],
    population: Prior,
    reading: float,
    target: float = Config().policy.target,
    seed: int = 0,
) -> PriorValue:
    """The value of priors in decisions on half of a table's questions, the price found on the other half."""
    half = np.random.default_rng(seed).permutation(len(whole)) % 2
    asked = ScoredQuestions(whole, PriorBatch.of(priors))
    return measure_prior_value(
        target,
        Config().policy.cap,
        asked,
        population,
        half == 0,
        half == 1,
        tokens_read=lambda _: reading,
        orders=4,
    )


def own_pool_states(location: str = "data/pool") -> None:
    """What states of the solver and of the reward model tell, all questions predicted from the others."""
    config = Config()
    table = load_scores(Pool.open(location), FoldSettings())
    settings = PredictorSettings(family=fit_empirical(table.fold("train").scores).name)
    table = table.full(config.policy.cap)
    plain = FrozenStates.load(settings)
    read = {"backbone": plain.read(table.questions)}
    solver = LocalGenerator(LocalGeneratorSettings(dtype=settings.dtype))
    judge = LocalRewardModel(LocalRewardSettings(dtype=settings.dtype))
    for name, trunk, tokenizer in (
        ("solver", solver.model.model, solver.tokenizer),
        ("reward model", judge.model.backbone.model, judge.tokenizer),
    ):
        read[name] = FrozenStates(trunk, tokenizer, settings).read(table.questions)
    population = fit_population(table.scores, settings.family)
    likelihood = get_family(settings.family).log_likelihood(table.scores, others=True)
    names = [*((name,) for name in read), tuple(read)]
    for chosen in names:
        own = [DistanceFeatures.fit(read[name].astype(float)).own() for name in chosen]
        gram = mix(own, choose_weights(own, moments(population, likelihood)))
        fitted = Regression.fit(gram, likelihood, population)
        normals = fitted.normals(fitted.arrays["left_out"])
        priors = make_priors(*normals, np.zeros(len(table)), population)
        found = score_priors(priors, table.scores, config.policy.target)
        value = worth(table, priors, population, 0.0)
        rank = spearmanr(table.scores.mean(axis=1), PriorBatch.of(priors).moments[0]).statistic
        print(
            f"{' + '.join(chosen)}: rank correlation {rank:.3f}, log score {found.hit.mean():.4f}, "
            f"of what knowing the law would save {(value.gap_closed or (np.nan,))[0]:.3f}",
            flush=True,
        )


def fit_kind(kind: Any, fold: Any, settings: Any, states: Any) -> Predictor:
    seen = states.read(fold.questions) if KINDS[kind].reads else None
    return KernelPredictor.fit(kind, Fold(fold.questions, fold.scores), settings, seen, states)


def coverage(priors: list[Prior], scores: np.ndarray) -> list[float]:
    """Share of questions whose mean score lies in the central 50, 80 and 95 % that priors give."""
    family = get_family(priors[0].family)
    priors = PriorBatch.of(priors).without(family.own_laws(scores))
    weights = np.exp(priors.table[priors.index])
    error = np.maximum(family.std / scores.shape[1] ** 0.5, 1e-4)
    below = (weights * norm.cdf((scores.mean(axis=1)[:, None] - family.mean) / error)).sum(axis=1)
    return [float((np.abs(below - 0.5) <= level / 2).mean()) for level in (0.5, 0.8, 0.95)]


def left_out_groups(fold: Any, settings: Any, states: Any) -> None:
    """Fit without a kind of question, then ask for it: stories, and the sums with most terms."""
    for name in GROUPS:
        out = np.array([q.group.startswith(name) for q in fold.questions])
        model = fit_kind("states", fold.select(~out), settings, states)
        ask_strangers(f"{name}, states", fold.select(out), model, model)


def left_out_groups_lora(location: str = "data/pool") -> None:
    """The same for LoRA, fitted on train questions alone: some minutes a group."""
    table = load_scores(Pool.open(location), FoldSettings())
    settings = PredictorSettings(family=fit_empirical(table.fold("train").scores).name)
    for name in GROUPS:
        out = np.array([q.group.startswith(name) for q in table.questions])
        known, strange = table.select(~out), table.select(out)
        with tempfile.TemporaryDirectory() as folder:
            train, tune = known.fold("train"), known.fold("tune")
            folds = Fold(train.questions, train.scores), Fold(tune.questions, tune.scores)
            model = fit_lora(*folds, settings, Path(folder))
            model.calibrate(folds[1])
        ask_strangers(f"{name}, lora", strange, model, model.base)


def ask_strangers(name: str, strange: Any, model: Any, detecting: Any) -> None:
    """Print what widening does for a group that was left out; ``detecting`` has the detector of ``model``."""
    likelihood = get_family(model.card.settings.family).log_likelihood(strange.scores, others=True)
    widened = model.predict(strange.questions)
    fit, off = detecting.kernel_fit, OutOfDistribution(near=10.0, far=11.0)
    detecting.kernel_fit = fit.model_copy(update={"detector": off})
    confident = model.predict(strange.questions)
    flat = [model.card.population] * len(strange)
    evidence = [log_evidence(p, likelihood) for p in (widened, confident, flat)]
    gain, over = bootstrap(evidence[0] - evidence[1]), bootstrap(evidence[0] - evidence[2])
    spreads = [np.mean([p.spread[0] for p in priors]) for priors in (widened, confident, flat)]
    print(
        f"{name} left out ({len(strange)} questions): spread of the mean's logit {spreads[0]:.2f}, "
        f"{spreads[1]:.2f} without widening, {spreads[2]:.2f} of the population; "
        f"widening gains {gain.mean:.2f} ({gain.low:.2f} to {gain.high:.2f}) nats a question, "
        f"the predictor over the population "
        f"{over.mean:.2f} ({over.low:.2f} to {over.high:.2f}); {fit.detector}",
        flush=True,
    )


def baselines(model: Any, kept: list[Any], held: list[Any], ours: np.ndarray) -> None:
    """The other kinds, fitted on all that ours was fitted on."""
    asked, wanted = ([Question.ask(r["problem"]) for r in part] for part in (kept, held))
    states = model.states if isinstance(model, KernelPredictor) else None
    cache = Path(os.environ.get("OPTSCALE_HOME", ".optscale")) / "states"
    if states is not None:
        states.cache = cache
    for kind in ("population", "text", "states"):
        if kind == model.card.kind or (KINDS[kind].reads and states is None):
            continue
        fold = Fold(asked, np.array([r["scores"] for r in kept]))
        fitted = fit_kind(kind, fold, model.card.settings, states)
        theirs = show(kind, fitted.predict(wanted), held)
        gain = bootstrap(ours - theirs)
        print(f"{'':34s} ours is better by {gain.mean:.4f} ({gain.low:.4f} to {gain.high:.4f}) in that score")


def show(name: str, priors: list[Prior], held: list[Any]) -> np.ndarray:
    """Print how priors did; returns the log scores of 1{score >= target}, which rest on simulated scores."""
    figures, moments_ = [], PriorBatch.of(priors).moments
    for values, key in zip(moments_, ("score_mean", "score_std"), strict=True):
        seen = np.array([r[key] for r in held])
        figures.append(1 - np.mean((seen - values) ** 2) / seen.var())
        figures.append(spearmanr(seen, values).statistic if np.ptp(values) > 1e-9 else 0.0)
    hit = score_priors(priors, np.array([r["scores"] for r in held]), TARGET).hit
    print(
        f"{name:34s} R2 of mean {figures[0]:.3f}, of std {figures[2]:.3f}; "
        f"rank correlation {figures[1]:.3f}, {figures[3]:.3f}; "
        f"log score of 1{{score >= {TARGET}}} {hit.mean():.4f}",
        flush=True,
    )
    return hit


def quality(name: str, table: ScoreTable) -> dict[str, Any]:
    """How well the scores of some questions select: one row of the pool's page."""
    auc, both = within_question_auc(table.scores, table.correct)
    found = selection_accuracy(table.scores, table.correct)
    return {
        "questions with": name,
        "questions": len(table),
        **{name: found.get(f"accuracy_{name}", float("nan")) for name in ("single", "best", "any")},
        "AUC within": auc,
        "right and wrong": int(both),
    }


def own_pool_draws(*plans: str) -> None:
    """Plans of `collect.train_candidates` on one and the same pool, or those of them that are named."""
    config, pool = Config(), Pool.open("data/pool")
    whole = load_scores(pool, config.folds)
    states = FrozenStates.load(PredictorSettings(), cache=Path(".optscale/states"))
    full = [q.id for q in whole.questions]
    for few in [int(plan) for plan in plans] or (None, 8, 4, 0):
        draws = config.collect.model_copy(update={"train_candidates": few})
        names = choose_few(whole.questions, None, config.folds, draws)
        table = thinned(whole, np.isin(full, list(names)), few or 0) if names else whole
        table = table.select(table.drawn > 0)
        fold, test = table.fold("train", "tune"), table.fold("test")
        settings = PredictorSettings(family=fit_empirical(table.fold("train").scores).name)
        print(f"{few} of most train questions: {table.tokens.sum() / whole.tokens.sum():.3f} of the tokens")
        for kind in ("population", "text", "states"):
            found = score_priors(
                fit_kind(kind, fold, settings, states).predict(test.questions),
                test.scores,
                config.policy.target,
            )
            print(
                f"  {kind}: evidence {found.evidence.mean():.2f}, hit log score {found.hit.mean():.4f}",
                flush=True,
            )
        priors = population_priors(config, table)
        made = assess_priors(config, pool.manifest.contract.fingerprint, priors)
        row, policy = made.row(SHIPPED), made.certificate.policy
        print(
            f"  {policy.kind if policy else 'nothing'} certified: {row.tokens:.0f} tokens a test question, "
            f"right on {row.accuracy:.3f}",
            flush=True,
        )


def thinned(table: ScoreTable, rows: np.ndarray, few: int) -> ScoreTable:
    """The table with no more than the first ``few`` candidates of some questions."""
    gone = rows[:, None] & (np.arange(table.tokens.shape[1]) >= few)
    arrays = {name: np.where(gone, blank, getattr(table, name)) for name, blank in BLANKS.items()}
    return replace(table, drawn=np.where(rows, few, table.drawn), **arrays)


def own_pool_scores(location: str = "data/pool") -> None:
    """Selection quality, as Markdown: by kind of question, and by aggregation.

    The aggregation is chosen on train and tune questions; calibration and test have no part in that.
    """
    pool = Pool.open(location)
    table = load_scores(pool, FoldSettings())
    kinds = np.array([q.group or "" for q in table.questions])
    groups = [quality(kind, table.select(kinds == kind)) for kind in sorted(set(kinds))]
    choices = []
    for how in get_args(Aggregation):
        contract = pool.manifest.contract.model_copy(update={"aggregation": how})
        rows = [
            {**r, "score": None if r["step_scores"] is None else contract.score(r["step_scores"])}
            for r in pool.rows()
        ]
        scored = tabulate(rows, FoldSettings(), location)
        choices.append(quality(f"{how}, train and tune", scored.fold("train", "tune")))
        choices.append(quality(f"{how}, held out", scored.fold("calibration", "test")))
    print(table_of([*groups, quality("all", table)]), table_of(choices), sep="\n\n")


def table_of(rows: list[dict[str, Any]]) -> str:
    """A Markdown table; the first row's keys are the heading."""
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    cells = ([f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows)
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in cells)])


FIGURES = {
    "published-math": published_math,
    "own-pool": own_pool,
    "own-pool-lora": left_out_groups_lora,
    "own-pool-states": own_pool_states,
    "pool-worth": pool_worth,
    "own-pool-draws": own_pool_draws,
    "own-pool-scores": own_pool_scores,
}

if __name__ == "__main__":
    FIGURES[sys.argv[1]](*sys.argv[2:])
