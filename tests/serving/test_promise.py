"""When `/decide` tells the promise, and when it must not."""

import asyncio
import json

import pytest

from data.errors import ConfigError
from predictor.policies import FixedN, Value
from predictor.prior import Prior
from predictor.selection import Selection
from predictor.vote_policies import Agreement
from serving.backend import Backend
from serving.bundle import Bundle
from serving.schemas import DecideRequest
from tests.helpers import make_certificate
from tests.serving.conftest import CONTRACT, make_card

POLICY = Value(target=0.9, cap=12, token_price=2e-4, candidate_tokens=20, round_price=0.005)
PRIOR = Prior.centred(0.8, 0.15)
CERTIFICATE = make_certificate(POLICY, {"lost_hit": 0.05}, contract=CONTRACT.fingerprint)
ASKED = {"question": "Compute 1 + 1.", "contract": CONTRACT.fingerprint}


class Foretells:
    async def priors(self, questions):
        return [PRIOR for _ in questions]

    async def ready(self):
        return True


@pytest.fixture
def decide(tmp_path):
    def decide(certificate=CERTIFICATE, policy=POLICY, tokens_per_candidate=20.0, **request):
        document = {"population": Prior.centred(0.5, 0.2).model_dump(mode="json")}
        (tmp_path / "predictor.json").write_text(json.dumps(document))
        changes = {"certificate": certificate, "tokens_per_candidate": tokens_per_candidate}
        card = make_card(policy=policy).model_copy(update=changes)
        backend = Backend(Bundle(path=tmp_path, card=card), None, Foretells())
        return asyncio.run(backend.decide(DecideRequest.model_validate(request)))

    return decide


def walk(decide, **fields):
    """Every answer on the way to the end, drawing what is asked for and nothing else."""
    scores, answers = [], [decide(**ASKED, scores=[], **fields)]
    while answers[-1].action == "sample":
        scores += [0.5] * answers[-1].more
        answers.append(decide(**ASKED, scores=scores, tokens=[20] * len(scores), **fields))
    return answers


def test_certified_decisions_carry_the_promise_to_the_end(decide):
    answers = walk(decide)
    assert len(answers) > 2
    assert {answer.promise for answer in answers} == {"little is lost"}


@pytest.mark.parametrize(
    "changes",
    [
        {"question": None, "prior": PRIOR.model_dump(mode="json")},
        {"question": None},
        {"contract": None},
        {"failed": 1},
        {"tokens": None},
        {"tokens_per_candidate": 0.0},
        {"scores": [0.5], "tokens": [20]},
        {"scores": [0.95] + [0.5] * 9, "tokens": [20] * 10},
        {"answers": ["1"] * 12},
        {"certificate": None},
        {"certificate": CERTIFICATE.model_copy(update={"policy": None})},
        {"certificate": CERTIFICATE.model_copy(update={"policy": FixedN(target=0.9, cap=12)})},
    ],
)
def test_nothing_is_promised_of_what_was_not_certified(decide, changes):
    first = decide(**ASKED).more
    assert first > 1
    plain = {**ASKED, "scores": [0.5] * first, "tokens": [20] * first}
    if "answers" in changes:
        changes = {"answers": changes["answers"][:first]}
    assert decide(**plain).promise == "little is lost"
    assert decide(**plain | changes).promise is None


def test_a_pool_without_token_counts_is_certified_without_them(decide):
    first = decide(**ASKED).more
    answer = decide(**ASKED, scores=[0.5] * first, tokens_per_candidate=0.0)
    assert answer.promise == "little is lost"


def test_answers_decide_where_the_policy_goes_by_them(decide):
    policy = Agreement(cap=12, confidence=0.9)
    asked = ASKED | {"policy": policy}
    agreed = decide(**asked, answers=["1/2", "0.5", r"\frac{1}{2}", ".5"])
    scattered = decide(**asked, answers=["1", "2", "3", None])
    assert (agreed.action, agreed.selected, agreed.best) == ("accept", 0, None)
    assert (scattered.action, scattered.more) == ("sample", 2)
    assert agreed.promise is None  # one or two of these would have been enough


def certified(policy):
    return {"policy": policy, "certificate": CERTIFICATE.model_copy(update={"policy": policy})}


def test_a_policy_by_answers_keeps_its_promise_where_answers_are_given(decide):
    asked = ASKED | certified(Agreement(target=0.9, cap=12, confidence=0.9))
    given, answers, found = ["3", "1/2", "0.5", *["1/2"] * 9], [], [decide(**asked)]
    while found[-1].action == "sample":
        answers = given[: found[-1].drawn + found[-1].more]
        found.append(decide(**asked, answers=answers))
    assert len(found) > 2
    assert {one.promise for one in found} == {"little is lost"}
    assert decide(**asked, scores=[0.5] * len(answers), answers=answers).promise == "little is lost"
    for changes in ({"answers": [*answers, "7"]}, {"contract": None}, {"failed": 1}):
        assert decide(**asked | {"answers": answers} | changes).promise is None


def test_a_weighted_vote_is_promised_with_answers_and_scores(decide):
    policy = FixedN(target=0.9, cap=4, selection=Selection(kind="weighted_vote"))
    asked, scores = ASKED | certified(policy), [0.2, 0.5, 0.4, 0.4]
    found = decide(**asked, scores=scores, answers=["1", "2", "3", "3"])
    assert (found.action, found.selected, found.best) == ("accept", 2, 0.5)  # .128 of votes against .125
    assert found.promise == "little is lost"
    assert decide(**asked, scores=scores).promise is None
    assert decide(**asked, answers=["1", "2", "3", "3"]).promise is None


@pytest.mark.parametrize("kind", ["best_score", "majority", "weighted_vote"])
def test_a_bundle_of_which_nothing_is_certified_says_what_it_draws(kind):
    reference = FixedN(target=0.9, cap=12, selection=Selection(kind=kind))
    nothing = CERTIFICATE.model_copy(update={"policy": None})
    for certificate in (None, nothing):
        card = make_card(policy=reference).model_copy(update={"certificate": certificate})
        by = kind.replace("_", " ")
        assert card.promise is None
        assert card.says == f"nothing is certified: the reference, all 12 candidates by {by}, is drawn"
    other = make_card(policy=POLICY).model_copy(update={"certificate": nothing})
    assert other.says == "nothing is certified: the policy (value, by best score) is used all the same"
    whole = make_card(policy=POLICY).model_copy(update={"certificate": CERTIFICATE})
    assert (whole.promise, whole.says) == ("little is lost", "little is lost")


def test_a_policy_that_goes_by_answers_says_that_none_were_given(decide):
    with pytest.raises(ConfigError, match="goes by the candidates' answers"):
        decide(**ASKED, policy=Agreement(cap=12), scores=[0.5])
