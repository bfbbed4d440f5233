"""Detectors: rarely wrong however often one looks, quick after a long quiet past, and they go on."""

import numpy as np
import pytest

from predictor.watch import HOURS, Detector, Usual

A_YEAR = 0.1


def hourly(rng, mean, hours, an_hour=40, first=0):
    """Ones and zeros, with the hour of each."""
    at = np.repeat(np.arange(first, first + hours), an_hour)
    return at, (rng.random(len(at)) < mean) * 1.0


@pytest.mark.parametrize(("above", "below"), [(0.3, None), (None, 0.3), (0.3, 0.3)])
def test_at_the_edge_of_the_null_an_alarm_is_rare(above, below):
    """Twenty times 150 hours at the very edge, looked at each hour: .03 false alarms are expected at most."""
    rng, alarms = np.random.default_rng(0), 0
    for _ in range(20):
        detector, (_, values) = Detector(above=above, below=below), hourly(rng, 0.3, 150)
        for hour, now in enumerate(values.reshape(150, 40)):
            detector = detector.after(np.full(40, hour), now)
            alarms += detector.alarms(A_YEAR)
    assert alarms == 0


def test_a_long_quiet_past_costs_nothing():
    delays = []
    for quiet in (0, 500):
        detector = Detector(above=0.1, below=None).after(*hourly(np.random.default_rng(1), 0.05, quiet))
        assert not detector.alarms(A_YEAR)
        hours, values = hourly(np.random.default_rng(2), 0.2, 50, 10, quiet)
        places = range(10, 500, 10)
        delays.append(next(n for n in places if detector.after(hours[:n], values[:n]).alarms(A_YEAR)))
        assert detector.after(hours, values).lately == pytest.approx(0.2, abs=0.07)
    assert abs(delays[0] - delays[1]) <= 30
    assert max(delays) < 400


def test_it_goes_on_where_it_was_and_takes_what_is_late():
    rng = np.random.default_rng(2)
    hours, values = hourly(rng, 0.2, 30)
    whole = Detector(above=0.1, below=0.05).after(hours, values)
    parts = Detector(above=0.1, below=0.05)
    for piece in np.array_split(np.arange(len(hours)), 7):
        kept = parts.after(hours[piece], values[piece]).model_dump_json()
        parts = Detector.model_validate_json(kept)
    assert parts.evidence == pytest.approx(whole.evidence)
    assert (parts.seen, parts.hour) == (whole.seen, 29)
    assert parts.after(np.array([3]), np.array([1.0])).hour == 29
    assert parts.after(hours[:0], values[:0]) == parts


def test_the_sum_of_bets_gains_one_an_hour():
    """Its mean over worlds at the edge of the null is the number of hours."""
    rng = np.random.default_rng(3)
    found = [
        np.exp(Detector(above=0.3, below=None).after(*hourly(rng, 0.3, 5, 2)).evidence) for _ in range(2000)
    ]
    assert np.mean(found) == pytest.approx(5, rel=0.07)
    assert HOURS == 8766


def test_a_few_hundred_questions_bound_a_mean():
    """It covers in more worlds than it promises, and more questions know it better."""
    rng, wrong = np.random.default_rng(4), 0
    for _ in range(40):
        usual = Usual.of(rng.beta(1, 2, 200))
        wrong += not usual.low <= 1 / 3 <= usual.high
    assert wrong <= 8
    many = Usual.of(rng.beta(1, 2, 2000))
    assert many.high - many.low < 0.5 * (usual.high - usual.low)
    assert usual.within(0.1, "lower").above is None
    assert usual.within(0.1, "higher").above == usual.high + 0.1
