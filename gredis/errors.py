"""What can go wrong in gredis.

GredisError
├── BadName            a name that cannot be a channel's, a group's or a queue's
├── MessageTooLarge    a message above the limit of the crossbar
├── Unreachable        Redis did not answer within the timeout of the caller
├── RedisRefused       Redis answered with an error (no memory, no permission, …)
├── DecryptionFailed             an encrypted message that none of our keys opens
├── Closed             the crossbar of this process has been closed
├── Gone               the process that an address belongs to is no longer there
└── Full               an inbox or a queue holds as many messages as it may
"""


class GredisError(Exception):
    """Any error of gredis."""


class BadName(GredisError, TypeError):
    """A name that cannot be a channel's, a group's or a queue's."""


class MessageTooLarge(GredisError, ValueError):
    """A message above the limit of the crossbar."""


class Unreachable(GredisError, ConnectionError):
    """Redis did not answer within the timeout of the caller."""


class RedisRefused(GredisError):
    """Redis answered with an error: no memory left, no permission, …"""


class DecryptionFailed(GredisError):
    """A message that none of our keys opens, or one that is not encrypted where it should be."""


class Closed(GredisError):
    """The crossbar of this process has been closed."""


class Gone(GredisError):
    """The process that an address belongs to is no longer there; nothing was stored."""


class Full(GredisError):
    """An inbox or a queue holds as many messages as it may; nothing was stored."""
