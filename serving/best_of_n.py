"""Best-of-N for one question that stops when the policy says so: draw, score, decide, choose.

No web framework and no network in here: candidates, scores and priors come from what is handed in.

Decisions are taken on complete rounds, in the order in which candidates were asked for. The first to
finish are the shorter ones, so deciding on whatever is there would favour short answers. Candidates
that are kept in flight ahead of a decision change only when they start: the policy sees the same
candidates in the same order, and what was promised of it holds.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, Protocol

from data.answers import extract_answer
from data.contract import Sampling, ScoreContract
from data.errors import ModelError, ScoreError
from data.question import Question, normalise
from models.generator.base import Candidate
from models.http_client import Observe, unobserved
from models.reward.base import StepScores
from predictor.decision import Decision, decide
from predictor.prior import Prior
from serving.draws import Answer, Ask, Draw, Ended

SEEDS = 2**31
UNJUDGED = StepScores(None, 1)  # it has steps, and no score of them came


class Sampler(Protocol):
    """Draws candidates; `models.generator.http.AsyncHttpGenerator` for one."""

    async def sample(
        self,
        question: Question,
        count: int,
        seed: int,
        sampling: Sampling,
        more: Mapping[str, Any],
        observe: Observe,
    ) -> list[Candidate]: ...


class Scorer(Protocol):
    """Scores completions; `models.reward.http.AsyncHttpRewardModel` for one."""

    async def score(self, items: Sequence[tuple[Question, str]], observe: Observe) -> list[StepScores]: ...


class PriorSource(Protocol):
    """Foretells a question's scores."""

    async def prior(self, question: Question) -> Prior: ...


class BestOfN:
    """Answers questions with the best of as many candidates as the policy asks for."""

    def __init__(
        self,
        sampler: Sampler,
        scorer: Scorer,
        prior_source: PriorSource,
        contract: ScoreContract,
        population: Prior,
        *,
        per_request: int | None = 1,
        agreement: int | None = None,
        prior_timeout: float = 5.0,
        observe_generator: Observe = unobserved,
        observe_reward: Observe = unobserved,
    ) -> None:
        self.sampler, self.scorer, self.prior_source = sampler, scorer, prior_source
        self.contract, self.population = contract, population
        self.per_request = per_request
        """Candidates a request; None: all of a round."""
        self.agreement = agreement
        """Without the reward model, vote among this many candidates; None gives up instead."""
        self.prior_timeout = prior_timeout
        self.observe_generator, self.observe_reward = observe_generator, observe_reward
        self.speed = 0.0
        """Generated tokens a second of one candidate, lately; what cancelled ones are reckoned by."""

    async def answer(self, ask: Ask, on_cancel: Callable[[Answer], None] | None = None) -> Answer:
        """Draw, score and decide until the policy, the deadline or the budget ends it.

        Nothing of it is under way any more when this returns, raises or is cancelled; ``on_cancel`` is
        then told what there was.
        """
        run = _Run(self, ask)
        try:
            async with asyncio.timeout_at(ask.deadline):
                await run.go()
        except TimeoutError:
            run.end("deadline", "the deadline came first")
        except asyncio.CancelledError:
            run.end("disconnected", "the client left")
            raise
        finally:
            await run.close()
            if run.ended == "disconnected" and on_cancel is not None:
                on_cancel(run.result())
        return run.result()


class _Run:
    """One question on its way."""

    def __init__(self, owner: BestOfN, ask: Ask) -> None:
        self.owner, self.ask = owner, ask
        self.draws: list[Draw] = []
        self.tasks: list[asyncio.Task[None]] = []  # one a draw; those of one request share theirs
        self.seen = self.rounds = 0
        self.prior = owner.population
        self.decision: Decision | None = None
        self.ended: Ended = "decided"
        self.degraded: dict[str, None] = {}
        self.error: Exception | None = None
        self.deciding = 0.0
        self.scoring = True
        self.judged: dict[str, asyncio.Future[StepScores]] = {}

    def end(self, ended: Ended, why: str) -> None:
        self.ended = ended
        self.degraded[why] = None

    async def go(self) -> None:
        await self._foretell()
        if self.ask.explore:
            if await self._round(self.ask.policy.cap):
                self._look_back()
            return
        while (more := self._decide(self.seen).more) > 0:
            if (more := min(more, self._affordable())) == 0:
                self.end("token budget", "the token budget allows no further candidate")
                return
            if not await self._round(more):
                return

    async def close(self) -> None:
        """Cancel what is under way and wait until it is gone."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for draw in self.draws:
            if draw.candidate is None:
                draw.estimated_tokens = min(round(draw.seconds * self._speed()), self.ask.sampling.max_tokens)

    def result(self) -> Answer:
        decision = self.decision or self._decide(self.seen)
        if any(_failed(draw) for draw in self.draws):
            self.degraded["the generator failed on some candidates"] = None
        if any(draw.found and draw.unjudged for draw in self.draws):
            self.degraded["the reward model failed on some candidates"] = None
        return Answer(
            draws=self.draws,
            seen=self.seen,
            shown=self._shown(),
            chosen=self._choose(),
            prior=self.prior,
            decision=decision,
            rounds=self.rounds,
            ended=self.ended,
            degraded=tuple(self.degraded),
            error=self.error,
            decision_seconds=self.deciding,
        )

    async def _round(self, more: int) -> bool:
        """See ``more`` candidates; false where that cannot be gone on with."""
        await self._see(self.seen + more)
        last = self.draws[self.seen - more : self.seen]
        if all(map(_failed, last)):
            self.end("generator", "the generator gave no candidate of a whole round")
            return False
        seen = self.draws[: self.seen]
        if any(d.unjudged for d in seen) and all(d.score is None for d in seen):
            self.end("reward model", "the reward model gave no score")
            await self._agree()
            return False
        return True

    async def _foretell(self) -> None:
        try:
            async with asyncio.timeout(self.owner.prior_timeout):
                self.prior = await self.owner.prior_source.prior(self.ask.question)
        except Exception as error:  # whatever is wrong with it, the population's prior serves
            self.error = error
            self.degraded["the predictor is away: the population's prior was used"] = None

    def _decide(self, seen: int) -> Decision:
        started = time.perf_counter()
        draws = self.draws[:seen]
        # A candidate without a score is a miss in its place: the score of 0 that replay gives it.
        scores = [draw.score or 0.0 for draw in draws]
        self.decision = decide(self.ask.policy, scores, self.prior, tokens=[draw.tokens for draw in draws])
        self.deciding += time.perf_counter() - started
        return self.decision

    def _look_back(self) -> None:
        """Where the policy would have stopped among the candidates that are there."""
        self.seen = self.rounds = 0
        while (more := self._decide(self.seen).more) > 0:
            for draw in self.draws[self.seen : self.seen + more]:
                draw.round = self.rounds
            self.seen, self.rounds = self.seen + more, self.rounds + 1
        for draw in self.draws[self.seen :]:
            draw.round = self.rounds

    def _affordable(self) -> int:
        """Candidates beyond those seen that the token budget has room for."""
        if self.ask.token_budget is None:
            return self.ask.policy.cap
        ahead = self.draws[self.seen :]
        under_way = sum(draw.candidate is None for draw in ahead)
        left = self.ask.token_budget - sum(draw.tokens for draw in self.draws)
        return len(ahead) + max(0, left // self.ask.sampling.max_tokens - under_way)

    async def _see(self, total: int) -> None:
        """Have ``total`` candidates drawn and scored, and others in flight ahead of the decision."""
        self._launch(total - len(self.draws), self.owner.per_request)
        if not self.ask.ahead:
            await asyncio.wait(self.tasks[:total])
        while not all(task.done() for task in self.tasks[:total]):
            self._keep_ahead()
            running = [task for task in self.tasks if not task.done()]
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for task in self.tasks[:total]:
            task.result()  # an error of ours is not to be swallowed
        for draw in self.draws[self.seen : total]:
            draw.round = self.rounds
        self.seen, self.rounds = total, self.rounds + 1

    def _keep_ahead(self) -> None:
        under_way = sum(not task.done() for task in self.tasks)
        most = min(self.ask.policy.cap, self.seen + self._affordable())
        room = most - len(self.draws)
        self._launch(min(self.ask.ahead - under_way, room), 1)

    def _launch(self, count: int, per_request: int | None) -> None:
        for at in range(0, count, size := per_request or max(count, 1)):
            first = len(self.draws)
            draws = [Draw((self.ask.seed + first + i) % SEEDS) for i in range(min(size, count - at))]
            task = asyncio.create_task(self._draw(draws))
            self.draws += draws
            self.tasks += [task] * len(draws)

    async def _draw(self, draws: list[Draw]) -> None:
        """Sample and score; each draw knows how far it came."""
        ask, owner = self.ask, self.owner

        def observe(seconds: float, error: BaseException | None) -> None:
            for draw in draws:
                draw.seconds += seconds
            self.error = error if isinstance(error, Exception) else self.error
            owner.observe_generator(seconds, error)

        try:
            candidates = await owner.sampler.sample(
                ask.question, len(draws), draws[0].seed, ask.sampling, ask.more, observe
            )
        except ModelError as error:
            self.error = error
            candidates = [Candidate(None, 0, 0, "failed", draw.seed) for draw in draws]
        for draw, candidate in zip(draws, candidates, strict=True):
            draw.candidate = candidate
        whole = [d for d in draws if d.candidate and d.candidate.status == "complete"]
        for draw in whole:
            if not (draw.candidate and draw.candidate.text and draw.candidate.text.strip()):
                draw.found = StepScores(None, 0)
        await self._score([d for d in whole if d.found is None])

    async def _score(self, draws: list[Draw]) -> None:
        if not self.scoring:
            for draw in draws:
                draw.found = UNJUDGED
            return
        # Candidates of an easy question are often the same to the letter: score each text once.
        mine = []
        for draw in draws:
            draw.repeated = (text := _text(draw)) in self.judged
            if not draw.repeated:
                self.judged[text] = asyncio.get_running_loop().create_future()
                mine.append(text)
        found = [UNJUDGED] * len(mine)  # where it is cancelled, nobody waits in vain
        try:
            found = await self._judge(mine) if mine else []
        finally:
            for text, scores in zip(mine, found, strict=True):
                if not (told := self.judged[text]).done():  # who waits and is cancelled ends it
                    told.set_result(scores)
        for draw in draws:
            draw.found = await self.judged[_text(draw)]
            if draw.found.steps is not None:
                try:
                    draw.score = self.owner.contract.score(draw.found.steps)
                except ScoreError as error:
                    self.error = error

    async def _judge(self, texts: list[str]) -> list[StepScores]:
        items = [(self.ask.question, text) for text in texts]
        try:
            return await self.owner.scorer.score(items, self._observe_reward)
        except* ModelError as group:
            self.error = group.exceptions[0]
        return [UNJUDGED] * len(texts)

    def _observe_reward(self, seconds: float, error: BaseException | None) -> None:
        self.error = error if isinstance(error, Exception) else self.error
        self.owner.observe_reward(seconds, error)

    async def _agree(self) -> None:
        """Without scores: have as many candidates as the vote is among."""
        self.scoring = False
        if self.owner.agreement is not None:
            missing = min(self.owner.agreement, self.ask.policy.cap) - self.seen
            if (missing := min(missing, self._affordable())) > 0:
                await self._see(self.seen + missing)

    def _shown(self) -> list[Draw]:
        whole = self.ask.explore or self.ended in {"deadline", "disconnected"}
        return self.draws if whole else self.draws[: self.seen]

    def _choose(self) -> Draw | None:
        """The best-scored candidate, the first of equals; without scores, by agreement or what there is."""
        shown = [d for d in self._shown() if d.candidate]
        scored = [d for d in shown if d.score is not None]
        if scored:
            return max(scored, key=lambda d: d.score or 0.0)
        whole = [d for d in shown if d.candidate and d.candidate.status == "complete"]
        if any(d.unjudged for d in whole):
            return None if self.owner.agreement is None else self._vote(whole)
        cut = [d for d in shown if d.candidate and d.candidate.status == "cut" and d.candidate.text]
        return next(iter(whole or cut), None)

    def _vote(self, whole: list[Draw]) -> Draw:
        self.degraded["chosen by agreement among candidates, without scores"] = None
        answers = [normalise(extract_answer(_text(d)) or "").casefold() for d in whole]
        votes = [answers.count(answer) if answer else 0 for answer in answers]
        return whole[votes.index(max(votes))]

    def _speed(self) -> float:
        """Tokens a second of one candidate."""
        known = [d.tokens / d.seconds for d in self.draws if d.candidate and d.tokens and d.seconds]
        if known:
            self.owner.speed = median(known)
        return self.owner.speed


def _failed(draw: Draw) -> bool:
    return draw.candidate is not None and draw.candidate.status == "failed"


def _text(draw: Draw) -> str:
    return (draw.candidate.text if draw.candidate else None) or ""
