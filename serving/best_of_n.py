"""Best-of-N for one question that stops when the policy says so: draw, score, decide, choose.

No web framework in here. Decisions are taken on complete rounds, in the order in which candidates were
asked for. The first to finish are the shorter ones, so deciding on whatever is there would favour short
answers. Candidates that are kept in flight ahead of a decision change only when they start: the policy sees
the same candidates in the same order, and what was promised of it holds.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from data.answer_function import AnswerFunction, read_answer
from data.contract import ScoreContract
from data.decision_log import FAILED
from data.errors import ModelError, QuestionError
from data.question import Question
from data.score_map import ScoreMap
from models.generator.base import Candidate
from models.generator.http import AsyncHttpGenerator
from models.reward.http import AsyncHttpRewardModel
from predictor.decision import Decision, decide
from predictor.prior import Prior
from predictor.selection import Selection
from serving import metrics
from serving.draws import Answer, Ask, Draw, Ended, select_draw
from serving.priors import PriorSource
from serving.scores import UNSCORED, Scores

logger = logging.getLogger("optscale.best_of_n")
SEEDS = 2**31
MAJORITY = Selection(kind="majority")


@dataclass
class BestOfN:
    """Answers questions with the best of as many candidates as the policy asks for.

    Parameters
    ----------
    reward_model : None where nothing scores candidates: then policies that read scores cannot be used.
    prior_source : None where no prior is asked for.
    contract : how step scores become a score.
    read : what a completion's answer is.
    score_map : how a raw score becomes one in [0, 1].
    population : prior where the prior source gives none within ``prior_timeout`` seconds.
    per_request : candidates a request to the generator; None: all of a round.
    agreement : without the reward model, vote among this many candidates; None gives up instead.
    speed : generated tokens a second of one candidate, lately; what cancelled ones are reckoned by.
    """

    generator: AsyncHttpGenerator
    reward_model: AsyncHttpRewardModel | None
    prior_source: PriorSource | None
    contract: ScoreContract
    population: Prior | None
    per_request: int | None = 1
    agreement: int | None = None
    score_map: ScoreMap | None = None
    read: AnswerFunction = read_answer
    prior_timeout: float = 5.0
    speed: float = 0.0

    async def read_keys(self, texts: Collection[str], question: Question) -> dict[str, str | None]:
        """The answers' keys; a function of the user's may take a while, and has a thread for it."""

        def read() -> dict[str, str | None]:
            return {text: self.read(text, question).key for text in texts}

        return read() if self.read is read_answer else await asyncio.to_thread(read)

    async def answer(self, ask: Ask, on_cancel: Callable[[Answer], None] | None = None) -> Answer:
        """Draw, score and decide until the policy, the deadline or the budget ends it.

        Nothing of it is under way any more when this returns, raises or is cancelled; ``on_cancel`` then
        gets what there was.
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
                on_cancel(run)
        return run


class _Run(Answer):
    """One question on its way: what came of it so far, and what is under way."""

    def __init__(self, owner: BestOfN, ask: Ask) -> None:
        super().__init__(ask, owner.population)
        self.owner = owner
        self.tasks: list[asyncio.Task[None]] = []  # one a draw; those of one request share theirs
        self.scores: Scores | None = None
        if owner.reward_model is not None:
            told = partial(self._observe, "reward model"), partial(setattr, self, "error")
            self.scores = Scores(owner.reward_model, ask.question, owner.contract, owner.score_map, *told)
        self.scoring = self.fits = True
        self.selection = ask.policy.selection

    def end(self, ended: Ended, why: str) -> None:
        self.ended = ended
        self.degraded.append(why)

    async def go(self) -> None:
        await self._predict()
        if (scorer := self.owner.reward_model) is not None and not await scorer.fits(self.ask.question):
            self.scoring = self.fits = False
            self.degraded.append("the question is too long for the reward model")
            if self.ask.policy.reads_scores:
                self.ended = "reward model"
                await self._draw_voters()
                return
        if self.ask.explore:
            if await self._round(self.ask.policy.cap):
                self._replay_policy()
            else:
                self._decide()
            return
        while self.decision.more > 0:
            if (count := min(self.decision.more, self._affordable())) == 0:
                self.end("token budget", "the token budget allows no further candidate")
                return
            if not await self._round(count):
                return
            self._decide()

    async def close(self) -> None:
        """Cancel what is under way, wait until it is gone, and choose the answer."""
        tasks: set[asyncio.Task[Any]] = {*self.tasks, *(self.scores.tasks if self.scores else ())}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if speeds := [d.tokens / d.seconds for d in self.draws if d.tokens and d.seconds]:
            self.owner.speed = median(speeds)
        for draw in self.draws:
            if not draw.given:
                tokens = min(round(draw.seconds * self.owner.speed), self.ask.sampling.max_tokens)
                draw.candidate = draw.candidate._replace(tokens=tokens)
        failed = [draw.candidate.cause for draw in self.draws if draw.candidate.status == "failed"]
        unscored = [d.step_scores.cause for d in self.draws if self.fits and d.step_scores and d.unscored]
        for what, causes in ((FAILED, failed), ("the reward model failed on some candidates", unscored)):
            if causes:
                commonest = [cause for cause, _ in Counter(filter(None, causes)).most_common(2)]
                self.cause = self.cause or "; ".join(commonest)
                self.degraded.append(": ".join([what, *commonest]))
        self.chosen = self._choose()

    async def _predict(self) -> None:
        try:
            if (source := self.owner.prior_source) is not None:
                async with asyncio.timeout(self.owner.prior_timeout):
                    (self.prior,) = await source.priors([self.ask.question])
        except QuestionError as error:
            self.degraded.append(f"{error}: the population's prior was used")
        except Exception as error:  # whatever is wrong with it, the population's prior serves
            self.error = error
            self.degraded.append("the predictor is away: the population's prior was used")
        finally:  # however soon it ends, there is a decision
            self._decide()

    async def _round(self, count: int) -> bool:
        """See ``count`` further candidates; false where that cannot be gone on with."""
        await self._see(self.seen + count)
        if all(draw.lost for draw in self.draws[self.seen - count : self.seen]):
            self.end("generator", "the generator gave no candidate of a whole round")
            return False
        seen = self.draws[: self.seen]
        if any(d.unscored for d in seen) and all(d.score is None for d in seen):
            self.scoring = False
            if self.ask.policy.reads_scores:
                self.end("reward model", "the reward model gave no score")
                await self._draw_voters()
                return False
        return True

    def _decide(self) -> Decision:
        started = time.perf_counter()
        draws = self.draws[: self.seen]
        # A candidate without a score is a miss in its place: the score of 0 that replay gives it.
        scores = [] if self.owner.reward_model is None else [draw.score or 0.0 for draw in draws]
        tokens, answers = [draw.tokens for draw in draws], [draw.answer for draw in draws]
        self.decision = decide(self.ask.policy, scores, self.prior, tokens=tokens, answers=answers)
        self.decision_seconds += time.perf_counter() - started
        return self.decision

    def _replay_policy(self) -> None:
        """Where the policy would have stopped among the candidates that are there."""
        self.seen = self.rounds = 0
        while (count := self._decide().more) > 0:
            self._end_round(self.seen + count)
        for draw in self.draws[self.seen :]:
            draw.round = self.rounds

    def _end_round(self, total: int) -> None:
        for draw in self.draws[self.seen : total]:
            draw.round = self.rounds
        self.seen, self.rounds = total, self.rounds + 1

    def _affordable(self) -> int:
        """Candidates beyond those seen that the token budget has room for."""
        if self.ask.token_budget is None:
            return self.ask.policy.cap
        ahead = self.draws[self.seen :]
        under_way = sum(not draw.given for draw in ahead)
        left = self.ask.token_budget - sum(draw.tokens for draw in self.draws)
        return len(ahead) + max(0, left // self.ask.sampling.max_tokens - under_way)

    async def _see(self, total: int) -> None:
        """Have ``total`` candidates drawn and scored, and others in flight ahead of the decision."""
        self._launch(total - len(self.draws), self.owner.per_request)
        until = asyncio.FIRST_COMPLETED if self.ask.ahead else asyncio.ALL_COMPLETED
        while not all(task.done() for task in self.tasks[:total]):
            self._keep_ahead()
            await asyncio.wait([task for task in self.tasks if not task.done()], return_when=until)
        for task in self.tasks[:total]:
            task.result()  # an error of ours is not to be swallowed
        self._end_round(total)

    def _keep_ahead(self) -> None:
        under_way = sum(not task.done() for task in self.tasks)
        room = min(self.ask.policy.cap, self.seen + self._affordable()) - len(self.draws)
        self._launch(min(self.ask.ahead - under_way, room), 1)

    def _launch(self, count: int, per_request: int | None) -> None:
        for at in range(0, count, size := per_request or max(count, 1)):
            first = self.ask.seed + len(self.draws)
            seeds = [(first + i) % SEEDS for i in range(min(size, count - at))]
            judged = self.owner.reward_model is not None
            draws = [Draw(Candidate(None, 0, 0, "cancelled", seed), judged=judged) for seed in seeds]
            task = asyncio.create_task(self._draw(draws))
            self.draws += draws
            self.tasks += [task] * len(draws)

    async def _draw(self, draws: list[Draw]) -> None:
        """Sample and score; each draw knows how far it came."""
        ask = self.ask

        def observe(seconds: float, error: BaseException | None) -> None:
            for draw in draws:
                draw.seconds += seconds
            self._observe("generator", seconds, error)

        try:
            candidates = await self.owner.generator.sample(
                ask.question, len(draws), draws[0].candidate.seed, ask.sampling, ask.extra_fields, observe
            )
        except ModelError as error:
            self.error = error
            candidates = [draw.candidate._replace(status="failed", cause=str(error)) for draw in draws]
        started = time.perf_counter()
        for draw, candidate in zip(draws, candidates, strict=True):
            draw.candidate = candidate  # before anything is waited for: a deadline keeps what was given
        keys = await self.owner.read_keys({draw.text for draw in draws}, ask.question) if not ask.read else {}
        for draw in draws:
            if ask.read is None:
                draw.answer = keys[draw.text]
            elif (key := ask.read(draw.text)) is not None:
                draw.answer = key
            elif draw.complete:
                cause = "an answer that is not of the form asked for"
                draw.candidate = draw.candidate._replace(status="failed", text="", cause=cause)
        self.decision_seconds += time.perf_counter() - started
        if self.scores is None:
            return
        complete = [draw for draw in draws if draw.complete]
        if self.scoring:
            await self.scores.give(complete)
        else:
            for draw in complete:
                draw.step_scores = UNSCORED

    def _observe(self, upstream: str, seconds: float, error: BaseException | None) -> None:
        self.error = error if isinstance(error, Exception) else self.error
        metrics.observe(upstream, seconds, error)

    async def _draw_voters(self) -> None:
        """Without scores: have as many candidates as the vote is among."""
        if self.owner.agreement is not None:
            missing = min(self.owner.agreement, self.ask.policy.cap) - self.seen
            if (missing := min(missing, self._affordable())) > 0:
                await self._see(self.seen + missing)

    def _choose(self) -> Draw | None:
        """What the policy's selection takes; without scores that it needs, by agreement or what there is."""
        shown = self.shown
        if self.ask.policy.reads_scores and all(draw.score is None for draw in shown):
            if any(draw.unscored for draw in shown):
                if self.owner.agreement is None:
                    return None
                self.degraded.append("chosen by agreement among candidates, without scores")
            self.selection = MAJORITY
        return select_draw(shown, self.selection)
