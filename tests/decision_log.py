"""A decision log as the gateway's own code writes it, without a server."""

import asyncio

from data.contract import Sampling
from data.decision_log import DecisionLog
from data.question import Question
from models.generator.base import Candidate
from models.reward.base import StepScores
from predictor.policies import Schedule
from predictor.prior import Prior
from serving.best_of_n import BestOfN
from serving.draws import Ask, log_row
from tests.helpers import make_contract

CONTRACT = make_contract()
POLICY = Schedule(cap=4, start=2, target=0.5)
ASKED = [Question.ask(f"Compute {n} + 1.", answer=str(n + 1), group="sum") for n in range(6)]


class Arithmetic:
    """Answers, scores and foretells without a network; the first ``fails`` candidates have no text."""

    def __init__(self, seconds=0.0, fails=0, steps=(0.25, 0.75)):
        self.seconds, self.fails, self.steps = seconds, fails, list(steps)

    async def sample(self, question, count, seed, sampling, more, observe):
        await asyncio.sleep(self.seconds)
        right = question.answer or "7"
        found = [Candidate(f"hm\nAnswer: {right}", 10 + k, 5, "complete", seed + k) for k in range(count)]
        without, self.fails = min(self.fails, count), max(self.fails - count, 0)
        return [c._replace(text=None, status="failed") if k < without else c for k, c in enumerate(found)]

    async def fits(self, question):
        return True

    async def score(self, items, observe):
        return [StepScores(self.steps, 30) for _ in items]

    async def priors(self, questions):
        return [Prior.centred(0.5, 0.2) for _ in questions]


def write_log(
    folder,
    asks,
    text=False,
    contract=CONTRACT,
    seconds=0.0,
    rows=3,
    fails=0,
    policy=POLICY,
    steps=(0.25, 0.75),
    name="r",
):
    async def main():
        world = Arithmetic(seconds, fails, steps)
        best_of_n = BestOfN(world, world, world, contract, Prior.centred(0.5, 0.2))
        log = DecisionLog(folder, rows=rows, seconds=0.05)
        async with log.running():
            for number, (question, explore) in enumerate(asks):
                due = asyncio.get_running_loop().time() + (0.2 if seconds else 60)
                ask = Ask(question, policy, Sampling(), 0, due, explore=explore, explore_share=0.25)
                answer = await best_of_n.answer(ask)
                log.add(log_row(answer, contract, f"{name}{number}", 0.1, text))
                await asyncio.sleep(0)

    asyncio.run(main())
