"""The core of the gateway against a real HTTP server: what it draws, decides, chooses and leaves behind."""

import asyncio

import numpy as np
import pytest

from data.answer_function import Read
from data.contract import UNSCORED, Sampling
from data.folds import FoldSettings
from data.log_import import pool_rows
from data.question import Question
from data.score_map import ScoreMap
from data.scores import tabulate
from models.generator.base import Candidate
from models.generator.http import AsyncHttpGenerator
from models.reward.http import AsyncHttpRewardModel
from models.settings import HttpGeneratorSettings, HttpRewardSettings
from predictor.policies import FixedN, Schedule, Value
from predictor.prior import Prior, PriorBatch
from predictor.replay import replay
from predictor.selection import Selection
from predictor.vote_policies import Agreement, Lead, Learned
from serving.best_of_n import BestOfN
from serving.draws import Ask, log_row
from tests.helpers import make_contract
from tests.serving.upstream import score_of

pytestmark = pytest.mark.slow

PRIOR = Prior.centred(0.7, 0.15)
POLICY = Value(target=0.9, cap=12, token_price=1e-4, candidate_tokens=8, round_price=0.002)
ASKED = [Question.ask(f"Compute {n} + 4.") for n in range(6)]


class PriorSource:
    async def priors(self, questions):
        return [PRIOR for _ in questions]


@pytest.fixture(scope="module")
def server(upstream):
    return upstream


def run(server, tokenizer, asks, way="plain", reward_way="plain", seconds=300.0, in_flight=64, **options):
    """Answers of the asks, all at once, on a loop of their own; nothing may be left on it.

    ``reward_way=None``: there is no reward model, and nothing is foretold of scores.
    """
    generator = HttpGeneratorSettings(
        base_url=server.url(way),
        model="m",
        retries=0,
        timeout=300,
        in_flight=in_flight,
        extra_body={"return_token_ids": True},
    )
    reward = HttpRewardSettings(
        base_url=server.url(reward_way or "locked"), model="m", retries=0, timeout=300, tokenizer=tokenizer
    )

    async def main():
        sampler, scorer = AsyncHttpGenerator(generator), AsyncHttpRewardModel(reward)
        behind = (
            scorer,
            options.pop("prior_source", PriorSource()),
            options.pop("contract", make_contract(aggregation="mean")),
            PRIOR,
        )
        if reward_way is None:
            behind = (None, None, make_contract(**UNSCORED), None)
        best_of_n = BestOfN(sampler, *behind, **options)
        due = asyncio.get_running_loop().time() + seconds
        asked = [Ask(deadline=due, **({"seed": 0, "sampling": Sampling(max_tokens=20)} | a)) for a in asks]
        found = await asyncio.gather(*(best_of_n.answer(a) for a in asked), return_exceptions=True)
        await sampler.client.close()
        await scorer.client.close()
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1, "tasks were left behind"
        return found

    return asyncio.run(main())


def test_it_stops_like_replay_and_answers_with_the_best(server, tokenizer):
    asks = [{"question": q, "policy": POLICY} for q in ASKED]
    for question, found in zip(ASKED, run(server, tokenizer, asks), strict=True):
        scores = [score_of(question.text, seed) for seed in range(12)]
        drawn, decision = 0, None
        while decision is None or decision.more:
            from predictor.decision import decide

            tokens = [draw.tokens for draw in found.draws[:drawn]]
            decision = decide(POLICY, scores[:drawn], PRIOR, tokens=tokens)
            drawn += decision.more
        assert [draw.score for draw in found.draws] == pytest.approx(scores[:drawn])
        assert (found.decision, found.ended, found.degraded) == (decision, "decided", [])
        assert found.chosen.score == max(scores[:drawn])
        assert found.chosen.candidate.text.endswith(f"{max(scores[:drawn]):.3f}")


def test_raw_scores_are_mapped_for_decisions_and_logged_as_they_came(server, tokenizer):
    raw = make_contract(aggregation="mean", scale="raw")
    score_map = ScoreMap(values=(0.0, 1.0), ranks=(0.2, 0.9))
    ask = {"question": ASKED[0], "policy": FixedN(target=0.9, cap=4)}
    (plain,), (mapped,) = (
        run(server, tokenizer, [ask], **options)
        for options in ({}, {"contract": raw, "score_map": score_map})
    )
    came = [draw.score for draw in plain.draws]
    assert [draw.score for draw in mapped.draws] == pytest.approx(score_map.apply(came))
    assert mapped.decision.best == pytest.approx(score_map.apply(max(came)))
    row = log_row(mapped, raw, "r", 1.0, True)
    (kept,) = {tuple(c["raw_score"] for c in row["candidates"])}
    assert list(kept) == pytest.approx(came)
    assert [r["score"] for r in pool_rows(row, ASKED[0], raw)] == [None] * 4


def test_a_users_own_notion_of_an_answer_votes(server, tokenizer):
    """Here the last digit's parity: what it calls equal is one vote, whatever the texts say."""

    def parity(completion, question):
        digits = [c for c in completion if c.isdigit()]
        return Read(str(int(digits[-1]) % 2) if digits else None, None)

    ask = {"question": ASKED[0], "policy": FixedN(cap=9, selection=MAJORITY)}
    (found,) = run(server, tokenizer, [ask], read=parity)
    keys = [draw.answer for draw in found.draws]
    assert set(keys) <= {"0", "1"}
    assert found.votes == keys.count(found.chosen.answer) == max(map(keys.count, keys))


def as_logged(found, text):
    """The candidates as replay gets them from the decision log; first, as they were asked for."""
    scale = "none" if found.prior is None else "unit"
    contract = make_contract(**UNSCORED) if found.prior is None else make_contract(aggregation="mean")
    row = log_row(found, contract, "r", 1.0, text)
    return tabulate(pool_rows(row, found.ask.question, contract), FoldSettings(), "log", scale=scale)


WEIGHTED = Selection(kind="weighted_vote", power=2)
MAJORITY = Selection(kind="majority")
BY_ANSWERS = [
    POLICY.model_copy(update={"selection": WEIGHTED}),
    FixedN(cap=9, selection=MAJORITY),
    FixedN(cap=9, selection=WEIGHTED),
    Schedule(target=0.9, cap=12, start=2, selection=MAJORITY),
    Schedule(target=0.9, cap=12, start=2, selection=Selection(kind="weighted_vote", weights=(0.1, 0.2, 3))),
    Agreement(cap=12, confidence=0.8),
    Agreement(cap=12, confidence=0.8, selection=WEIGHTED),
    Lead(cap=12, share=0.3),
    Learned(cap=12, selection=Selection()),
]


@pytest.mark.parametrize("policy", BY_ANSWERS, ids=lambda policy: f"{policy.kind} {policy.selection.kind}")
def test_it_delivers_what_a_replay_of_the_logged_candidates_selects(server, tokenizer, policy):
    asks = [{"question": q, "policy": policy, "explore": e} for q in ASKED for e in (False, True)]
    found = run(server, tokenizer, asks, way="answers")
    for plain, whole in zip(found[::2], found[1::2], strict=True):
        for text in (True, False):
            table = as_logged(whole, text)
            candidates = table.candidates(policy.cap)
            priors = PriorBatch.of([PRIOR])
            again = replay(policy, candidates.scores, priors, candidates.tokens, answers=candidates.answers)
            assert (again.drawn.tolist(), again.rounds.tolist()) == ([plain.seen], [plain.rounds])
            assert plain.draws[again.chosen[0]] is plain.chosen
            assert plain.decision.selected == whole.decision.selected == again.chosen[0]
            of_all = policy.selection.count(candidates.answers, candidates.scores).chosen[0, -1]
            assert whole.draws[of_all] is whole.chosen
        same = [draw.answer == plain.chosen.answer for draw in plain.draws[: plain.seen]]
        assert plain.votes == (sum(same) if plain.chosen.answer else 0)
        assert plain.selection == policy.selection
    if policy.selection.kind != "best_score":
        best = [max(one.shown, key=lambda draw: draw.score) for one in found]
        assert any(one.chosen is not top for one, top in zip(found, best, strict=True))


@pytest.mark.parametrize("selection", [Selection(), MAJORITY, WEIGHTED], ids=lambda s: s.kind)
def test_what_failed_is_no_vote_and_nothing_without_a_text_is_delivered(server, tokenizer, selection):
    asks = [{"question": q, "policy": FixedN(cap=8, selection=selection)} for q in ASKED]
    server.chance.seed(1)
    found = run(server, tokenizer, asks, "mixed-0.4-answers", "mixed-0.2", seconds=3.0, agreement=5)
    assert any("generator failed" in why for one in found for why in one.degraded)
    for one in found:
        table = as_logged(one, True)
        taken = MAJORITY if (table.scores == 0).all() else selection
        column = taken.count(table.answers, table.scores).chosen[0, len(one.shown) - 1]
        assert one.chosen.text.strip()
        assert one.chosen is one.draws[column] or not one.draws[column].whole


def test_a_policy_by_answers_goes_on_without_the_reward_model(server, tokenizer):
    policy = Agreement(cap=12, confidence=0.8)
    asks = [{"question": q, "policy": policy} for q in ASKED]
    scored, unscored = (run(server, tokenizer, asks, "answers", way) for way in ("plain", "error"))
    for one, other in zip(scored, unscored, strict=True):
        assert (one.ended, other.ended) == ("decided", "decided")
        assert (one.decision.reason, one.seen) == (other.decision.reason, other.seen)
        assert one.chosen.candidate == other.chosen.candidate
        assert any("reward model" in why for why in other.degraded)


@pytest.mark.parametrize(
    "policy", [p for p in BY_ANSWERS if not p.reads_scores], ids=lambda policy: policy.kind
)
def test_where_nothing_scores_it_decides_and_delivers_by_answers_alone(server, tokenizer, policy):
    asks = [{"question": q, "policy": policy, "explore": e} for q in ASKED for e in (False, True)]
    scored, before = run(server, tokenizer, asks, "answers"), server.requests["locked"]
    unscored = run(server, tokenizer, asks, "answers", None)
    assert server.requests["locked"] == before
    for one, other in zip(scored, unscored, strict=True):
        assert (other.ended, other.degraded, other.prior) == ("decided", [], None)
        assert other.decision == one.decision.model_copy(update={"best": None})
        assert other.chosen.candidate == one.chosen.candidate
        assert (other.tokens.reward, other.chosen.score, other.chosen.status) == (0, None, "complete")
    for plain, whole in zip(unscored[::2], unscored[1::2], strict=True):
        candidates = as_logged(whole, False).candidates(policy.cap)
        assert np.isnan(candidates.scores).all()
        again = replay(policy, candidates.scores, answers=candidates.answers)
        assert plain.draws[again.chosen[0]] is plain.chosen
        assert again.drawn.tolist() == [plain.seen]


def test_an_empty_text_is_failed_where_nothing_scores(server, tokenizer):
    asks = [{"question": ASKED[0], "policy": FixedN(cap=3, selection=MAJORITY)}]
    (found,) = run(server, tokenizer, asks, "empty", None)
    assert [draw.status for draw in found.draws] == ["failed"] * 3
    assert (found.decision.action, found.votes, found.chosen) == ("give up", 0, None)
    assert found.degraded == ["the generator failed on some candidates: an empty answer (finish_reason stop)"]


@pytest.mark.parametrize("options", [{"ahead": 4}, {"ahead": 12}])
def test_candidates_in_flight_ahead_change_no_decision(server, tokenizer, options):
    plain = run(server, tokenizer, [{"question": q, "policy": POLICY} for q in ASKED])
    eager = run(server, tokenizer, [{"question": q, "policy": POLICY, **options} for q in ASKED])
    for one, other in zip(plain, eager, strict=True):
        assert one.decision == other.decision
        assert one.chosen.candidate.text == other.chosen.candidate.text
        assert len(other.draws) >= len(one.draws)
        assert {d.status for d in other.draws[: other.seen]} == {"complete"}


def test_how_requests_are_cut_changes_no_candidate(server, tokenizer):
    asks = [{"question": q, "policy": FixedN(cap=8)} for q in ASKED[:4]]
    one, whole = (run(server, tokenizer, asks, per_request=n) for n in (1, None))
    for a, b in zip(one, whole, strict=True):
        assert [d.candidate.text for d in a.draws] == [d.candidate.text for d in b.draws]


def test_equal_texts_are_scored_once(server, tokenizer):
    ask = {"question": ASKED[0], "policy": Schedule(cap=6, start=3, target=1.0), "seed": 5}
    server.bodies = []
    (found,) = run(server, tokenizer, [ask], way="same")
    assert sorted(draw.repeated for draw in found.draws) == [False] + [True] * 5
    assert len({draw.score for draw in found.draws}) == 1
    assert sum("input" in body for body in server.bodies) == 1


def test_a_cut_candidate_is_a_miss_and_the_last_resort(server, tokenizer):
    (found,) = run(server, tokenizer, [{"question": ASKED[0], "policy": FixedN(cap=3)}], way="cut")
    assert [draw.status for draw in found.draws] == ["cut"] * 3
    assert found.chosen is found.draws[0]
    assert found.decision.drawn == 3


def test_the_deadline_answers_with_the_best_so_far(server, tokenizer):
    ask = {"question": ASKED[0], "policy": Schedule(cap=8, start=1, factor=1, target=1.0)}
    (found,) = run(server, tokenizer, [ask], way="slow", seconds=0.8)
    scored = [draw for draw in found.draws if draw.score is not None]
    assert 0 < len(scored) < 8
    assert found.ended == "deadline"
    assert found.chosen.score == max(draw.score for draw in scored)
    assert found.draws[-1].status == "cancelled"
    assert 0 <= found.draws[-1].tokens <= 20


def test_a_candidate_never_sent_has_no_tokens(server, tokenizer):
    ask = {"question": ASKED[0], "policy": FixedN(cap=8)}
    (found,) = run(server, tokenizer, [ask], way="slow", seconds=0.8, in_flight=1)
    assert found.draws[0].status == "complete"
    assert [draw.status for draw in found.draws[4:]] == ["cancelled"] * 4
    assert [draw.tokens for draw in found.draws[4:]] == [0] * 4


def test_candidates_ahead_of_the_decision_are_not_shown(server):
    class Slow:
        """The first two candidates are cut; the rest are whole and still being scored."""

        async def sample(self, question, count, seed, sampling, more, observe):
            return [Candidate("so", 5, 5, "cut" if seed < 2 else "complete", seed)]

        async def fits(self, question):
            return True

        async def score(self, items, observe):
            await asyncio.sleep(60)

    policy = Value(target=0.9, cap=8, floor=2, token_price=10)

    async def main(ahead):
        world = Slow()
        best_of_n = BestOfN(world, world, PriorSource(), make_contract(), PRIOR, agreement=3)
        due = asyncio.get_running_loop().time() + 60
        return await best_of_n.answer(Ask(ASKED[0], policy, Sampling(), 0, due, ahead=ahead))

    for ahead in (0, 4):
        found = asyncio.run(main(ahead))
        assert (found.ended, found.degraded, found.seen) == ("decided", [], 2)
        assert found.chosen is found.draws[0]
        assert len(found.shown) == 2


def test_a_deadline_before_the_first_candidate_has_no_answer(server, tokenizer):
    before = server.cancelled
    asks = [{"question": q, "policy": POLICY} for q in ASKED]
    for found in run(server, tokenizer, asks, way="silent", seconds=1.0):
        assert (found.chosen, found.ended) == (None, "deadline")
        assert {draw.status for draw in found.draws} == {"cancelled"}
    for _ in range(100):  # the server sees its clients go
        if server.cancelled >= before + len(ASKED):
            break
        import time

        time.sleep(0.05)
    assert server.cancelled >= before + len(ASKED)


def test_the_token_budget_is_kept(server, tokenizer):
    policy = Schedule(cap=12, start=4, factor=1, target=1.0)
    asks = [{"question": q, "policy": policy, "token_budget": 70, "ahead": a} for q in ASKED for a in (0, 3)]
    for found in run(server, tokenizer, asks):
        assert sum(draw.tokens for draw in found.draws) <= 70
        assert found.ended == "token budget"
        assert found.chosen is not None
        assert len(found.draws) >= 3


def test_exploring_draws_the_cap_and_changes_no_decision(server, tokenizer):
    plain = run(server, tokenizer, [{"question": q, "policy": POLICY} for q in ASKED])
    whole = run(server, tokenizer, [{"question": q, "policy": POLICY, "explore": True} for q in ASKED])
    for one, other in zip(plain, whole, strict=True):
        assert (one.decision, one.seen, one.rounds) == (other.decision, other.seen, other.rounds)
        assert len(other.draws) == POLICY.cap
        assert other.chosen.score == max(draw.score for draw in other.draws)


@pytest.mark.parametrize("way", ["error", "page", "broken", "half", "hang up", "refusing", "locked"])
def test_a_generator_that_gives_nothing_ends_the_question(server, tokenizer, way):
    (found,) = run(server, tokenizer, [{"question": ASKED[0], "policy": FixedN(cap=4)}], way=way)
    assert (found.chosen, found.ended) == (None, "generator")
    assert found.error is not None
    assert {draw.status for draw in found.draws} == {"failed"}


def test_missing_candidates_are_asked_for_again(server, tokenizer):
    asks = [{"question": ASKED[0], "policy": FixedN(cap=5)}]
    (found,) = run(server, tokenizer, asks, way="fewer", per_request=None)
    assert [draw.status for draw in found.draws] == ["complete"] * 5


@pytest.mark.parametrize("way", ["error", "page", "broken", "half", "nan", "locked", "hang up"])
def test_without_the_reward_model_candidates_vote(server, tokenizer, way):
    asks = [{"question": ASKED[0], "policy": Schedule(cap=12, start=2, target=1.0)}]
    (vote,) = run(server, tokenizer, asks, reward_way=way, agreement=5)
    assert vote.ended == "reward model"
    assert len(vote.draws) == 5
    assert "cancelled" not in {draw.status for draw in vote.draws}
    assert vote.chosen.candidate.text
    assert any("agreement" in why for why in vote.degraded)
    (none,) = run(server, tokenizer, asks, reward_way=way)
    assert (none.chosen, none.ended, len(none.draws)) == (None, "reward model", 2)


def test_faults_on_some_candidates_are_misses_and_said(server, tokenizer):
    asks = [{"question": q, "policy": FixedN(cap=8)} for q in ASKED[:5]]
    for way, reward_way, who in (("mixed-0.5", "plain", "generator"), ("plain", "mixed-0.5", "reward")):
        server.chance.seed(0)
        found = run(server, tokenizer, asks, way, reward_way, seconds=2.0)
        said = [any(who in why and "some" in why for why in one.degraded) for one in found]
        failed = [any(draw.status == "failed" for draw in one.draws) for one in found]
        assert sum(said) > len(asks) / 2
        for one, is_said, is_failed in zip(found, said, failed, strict=True):
            assert is_failed or not is_said
            scores = [draw.score for draw in one.draws if draw.score is not None]
            assert not scores or one.chosen.score == max(scores)


def test_the_vote_goes_to_the_commonest_answer(server, tokenizer):
    asks = [{"question": ASKED[0], "policy": FixedN(cap=5), "seed": seed} for seed in range(5)]
    for found in run(server, tokenizer, asks, way="votes", reward_way="error", agreement=5):
        assert found.chosen.candidate.text.endswith("Answer: 7")


def test_a_predictor_that_is_away_leaves_the_populations_prior(server, tokenizer):
    class Away:
        async def priors(self, questions):
            raise ConnectionError("away")

    class Hanging:
        async def priors(self, questions):
            await asyncio.sleep(60)

    for prior_source in (Away(), Hanging()):
        (found,) = run(
            server,
            tokenizer,
            [{"question": ASKED[0], "policy": POLICY}],
            prior_source=prior_source,
            prior_timeout=0.1,
        )
        assert found.prior == PRIOR
        assert found.chosen is not None
        assert any("predictor" in why for why in found.degraded)


@pytest.mark.parametrize("ahead", [0, 3])
def test_cancelling_a_question_leaves_nothing_under_way(server, tokenizer, ahead):
    generator = HttpGeneratorSettings(base_url=server.url("silent"), model="m", retries=0)
    reward = HttpRewardSettings(base_url=server.url("plain"), model="m", tokenizer=tokenizer)

    async def main():
        sampler, scorer = AsyncHttpGenerator(generator), AsyncHttpRewardModel(reward)
        best_of_n = BestOfN(sampler, scorer, PriorSource(), make_contract(), PRIOR)
        due = asyncio.get_running_loop().time() + 60
        ask = Ask(ASKED[0], FixedN(cap=6), Sampling(), 0, due, ahead=ahead)
        cancelled = []
        task = asyncio.create_task(best_of_n.answer(ask, on_cancel=cancelled.append))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        (there,) = cancelled
        assert there.ended == "disconnected"
        assert {draw.status for draw in there.draws} == {"cancelled"}
        assert len(asyncio.all_tasks()) == 1
        await sampler.client.close()

    asyncio.run(main())
