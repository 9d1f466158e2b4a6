"""The token bucket, with a clock that the test turns."""

import pytest

from chat.rate import TokenBucket


def test_a_burst_is_allowed_and_no_more():
    bucket = TokenBucket(rate=1, burst=3, now=100)
    assert [bucket.take(100) for _ in range(5)] == [True, True, True, False, False]


def test_after_a_burst_the_rate_holds():
    bucket = TokenBucket(rate=2, burst=1, now=0)
    taken = [bucket.take(tick / 10) for tick in range(101)]
    assert sum(taken) == 1 + 20


def test_a_refused_take_costs_nothing():
    bucket = TokenBucket(rate=1, burst=1, now=0)
    assert bucket.take(0)
    assert not any(bucket.take(tick / 100) for tick in range(100))
    assert bucket.take(1.01)


def test_a_long_pause_earns_one_burst_only():
    bucket = TokenBucket(rate=10, burst=2, now=0)
    assert [bucket.take(1e6) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (1, 0)])
def test_a_bucket_that_would_never_allow_anything_is_an_error(rate, burst):
    with pytest.raises(ValueError, match="above 0"):
        TokenBucket(rate, burst, now=0)
