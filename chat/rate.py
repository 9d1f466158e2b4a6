"""The rate limit of a socket: a token bucket. The caller passes the time, so it needs no clock.

Taught in notebooks/11_multichat.ipynb.
"""


class TokenBucket:
    """Allows `burst` tokens at once and `rate` tokens per second in the long run.

    `rate` must be above 0, `burst` at least 1. Times are in seconds, of any clock that does not go
    backwards (time.monotonic).
    """

    __slots__ = ("_burst", "_rate", "_tokens", "_updated")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        if rate <= 0 or burst < 1:
            raise ValueError(f"rate must be above 0 and burst at least 1, not {rate}, {burst}")
        self._rate = rate
        self._burst = float(burst)
        self._tokens = float(burst)
        self._updated = now

    def take(self, now: float) -> bool:
        """Take a token and return True; return False if there is none at time `now`."""
        self._tokens = min(self._burst, self._tokens + (now - self._updated) * self._rate)
        self._updated = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
