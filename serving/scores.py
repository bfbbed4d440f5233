"""Scores of one question's candidates, of each text once."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from data.contract import ScoreContract
from data.errors import ModelError, ScoreError
from data.question import Question
from data.score_map import ScoreMap
from models.http_client import Observe
from models.reward.base import StepScores
from models.reward.http import AsyncHttpRewardModel
from serving.draws import Draw

logger = logging.getLogger("optscale.best_of_n")
UNSCORED = StepScores(None, 1)  # it has steps, and no score of them came


class Scores:
    """Asks the reward model, and gives draws their scores.

    Parameters
    ----------
    contract : how step scores become a score.
    score_map : how that becomes one in [0, 1].
    observe : is told of each request's seconds, and of what went wrong, if anything did.
    fault : is told why there are no scores, or none of the contract.
    """

    def __init__(
        self,
        reward_model: AsyncHttpRewardModel,
        question: Question,
        contract: ScoreContract,
        score_map: ScoreMap | None,
        observe: Observe,
        fault: Callable[[Exception], None],
    ) -> None:
        self.reward_model, self.question = reward_model, question
        self.contract, self.score_map, self.observe, self.fault = contract, score_map, observe, fault
        self.asked: dict[str, asyncio.Task[dict[str, StepScores]]] = {}  # of a text, the request with it

    @property
    def tasks(self) -> set[asyncio.Task[dict[str, StepScores]]]:
        """Requests, those under way among them."""
        return set(self.asked.values())

    async def give(self, draws: Sequence[Draw]) -> None:
        """Have each draw know its step scores, and its score where they are of the contract."""
        # Candidates of an easy question are often the same to the letter: score each text once.
        new: list[str] = []
        for draw in draws:
            draw.repeated = draw.text in self.asked or draw.text in new
            if not draw.repeated:
                new.append(draw.text)
        if new:
            self.asked |= dict.fromkeys(new, asyncio.create_task(self._ask(new)))
        for draw in draws:
            draw.step_scores = (await self.asked[draw.text])[draw.text]
            if draw.step_scores.steps is not None:
                try:
                    draw.raw_score = self.contract.score(draw.step_scores.steps)
                except ScoreError as error:
                    self.fault(error)
                    draw.step_scores = draw.step_scores._replace(cause=str(error))
                    continue
                mapped = draw.raw_score if self.score_map is None else self.score_map.apply(draw.raw_score)
                draw.score = float(mapped)

    async def _ask(self, texts: Sequence[str]) -> dict[str, StepScores]:
        scores = [UNSCORED] * len(texts)
        try:
            scores = await self.reward_model.score([(self.question, text) for text in texts], self.observe)
        except* ModelError as group:
            error = group.exceptions[0]
            self.fault(error)
            logger.error("%s", error)
            scores = [UNSCORED._replace(cause=str(error))] * len(texts)
        return dict(zip(texts, scores, strict=True))
