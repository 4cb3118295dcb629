import itertools
import math

import pytest

from VolumeSegmanticsLib.learning_rate import DEFAULT, HIGHEST, LOWEST, STEPS, one_cycle, range_test, suggestion

RATES = [1e-5 * (3e-1 / 1e-5) ** (n / (STEPS - 1)) for n in range(STEPS)]


def valley(best: float, depth: float = 0.5):
    """A loss that falls towards the best rate and rises behind it."""
    return lambda rate: 1 - depth * math.exp(-abs(math.log10(rate / best)))


def test_a_third_of_the_best_rate_is_suggested():
    assert range_test(valley(RATES[14])) == pytest.approx(RATES[14] / 3)


@pytest.mark.parametrize(("best", "expected"), [(RATES[5], LOWEST), (3e-1, HIGHEST)])
def test_a_suggestion_stays_within_its_limits(best, expected):
    assert range_test(valley(best)) == expected


NOTHING_SAID = {
    "a flat loss": lambda rate: 1.0,
    "a loss of 0": lambda rate: 0.0,
    "a loss that hardly falls": valley(1e-3, depth=0.02),
    "a loss that only rises": lambda rate: 1 + rate,
    "NaN at once": lambda rate: math.nan,
    "infinity at once": lambda rate: math.inf,
    "NaN soon": lambda rate: 1.0 if rate < 2e-5 else math.nan,
    "a loss that bursts soon": lambda rate: 1.0 if rate < 2e-5 else 1e300,
    "noise that only rises": lambda rate: 1 + rate + 0.01 * math.sin(1e6 * rate),
}


@pytest.mark.parametrize("loss", NOTHING_SAID.values(), ids=NOTHING_SAID)
def test_losses_that_say_nothing_give_the_default(loss):
    assert range_test(loss) == DEFAULT


def test_the_test_ends_where_the_loss_bursts():
    tried = []

    def step(rate: float) -> float:
        tried.append(rate)
        return math.nan if rate > 1e-2 else 1 - 20 * rate

    assert LOWEST <= range_test(step) <= HIGHEST
    assert len(tried) < STEPS
    assert tried == RATES[: len(tried)]


def test_the_test_ends_with_its_time():
    tried = []

    def step(rate: float) -> float:
        tried.append(rate)
        return 1 / len(tried)

    assert range_test(step, may_go_on=lambda: len(tried) < 3) == DEFAULT
    assert tried == RATES[:3]


def test_losses_of_any_size_give_a_rate_within_the_limits():
    for losses in itertools.product([0.0, -5.0, 1e308, 1e-308], repeat=3):
        assert LOWEST <= suggestion(RATES, [*losses] * 8) <= HIGHEST


def test_no_losses_give_the_default():
    assert suggestion([], []) == DEFAULT


def test_one_odd_loss_is_smoothed_away():
    losses = [valley(RATES[14])(rate) for rate in RATES]
    losses[3] = 0.3
    assert suggestion(RATES, losses) > RATES[9] / 3


def test_the_cycle_rises_for_a_quarter_and_falls_from_there_on():
    rates = [one_cycle(n / 100) for n in range(101)]
    assert rates[0] == pytest.approx(1 / 25)
    assert rates[25] == 1
    assert rates[-1] == pytest.approx(1e-3)
    assert rates[:26] == sorted(rates[:26])
    assert rates[25:] == sorted(rates[25:], reverse=True)
    assert max(abs(b - a) for a, b in itertools.pairwise(rates)) < 0.1


@pytest.mark.parametrize(("part", "same"), [(-1, 0), (1.5, 1), (math.inf, 1)])
def test_beyond_its_ends_the_cycle_stands_still(part, same):
    assert one_cycle(part) == one_cycle(same)
