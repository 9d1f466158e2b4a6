"""The errors of gredis, one tree:

GredisError
├── BadName            not a valid name of a channel, group or queue   (also a TypeError)
├── MessageTooLarge    a message above the size limit                  (also a ValueError)
├── Unreachable        no answer from Redis within the timeout         (also a ConnectionError)
├── RedisRefused       Redis answered with an error
├── DecryptionFailed   no configured key decrypts a message
├── Closed             the crossbar of this process has been closed
├── Gone               the process that an address belongs to has died
└── Full               an inbox or a queue is at its capacity
"""


class GredisError(Exception):
    """Base class of all errors that gredis raises."""


class BadName(GredisError, TypeError):
    """Not a valid name of a channel, group or queue."""


class MessageTooLarge(GredisError, ValueError):
    """The message exceeds the size limit of the crossbar."""


class Unreachable(GredisError, ConnectionError):
    """Redis (or the hub) did not answer within the caller's timeout."""


class RedisRefused(GredisError):
    """Redis answered with an error: out of memory, no permission, …"""


class DecryptionFailed(GredisError):
    """No configured key decrypts the message, or it was sent without encryption."""


class Closed(GredisError):
    """The crossbar of this process has been closed."""


class Gone(GredisError):
    """The process that the address belongs to has died."""


class Full(GredisError):
    """The inbox or queue is at its capacity; nothing was stored."""
