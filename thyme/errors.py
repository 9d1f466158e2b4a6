"""The errors of the server's own parts.

    ThymeError
    ├── ApplicationError     the application sent something HTTP or WebSocket cannot carry
    ├── CertificateUnusable  for TLS; an OSError, too
    ├── Incompatible         an installed package lacks a name that thyme depends on
    ├── StartupFailed        the application said that it cannot serve
    └── ReadCancelled        somebody ended a wait for bytes (inside the server only)

`Disconnected` (an `OSError`: the peer has gone) is what an application sees: `loading.py`.
A request that is refused is no error but an event: `head_rules.Refusal`.
"""


class ThymeError(Exception):
    """Root of the errors of the server."""


class ApplicationError(ThymeError, RuntimeError):
    """The application broke the ASGI specification; the message says what was expected."""


class CertificateUnusable(ThymeError, OSError):
    """OpenSSL or the file system does not give us the certificate or its key."""


class StartupFailed(ThymeError):
    """The application's startup failed (`lifespan.startup.failed`); its own message."""


class Incompatible(ThymeError):
    """A name of another package that thyme depends on does not exist in the installed version."""


class ReadCancelled(ThymeError):
    """The wait for the peer's bytes was ended from another greenlet; no byte was taken."""


class Disconnected(ConnectionError):
    """The other side has gone: `send` can deliver nothing more.

    An `OSError`, as the ASGI specification asks of a `send` after the disconnect.
    """


class ApplicationNotFound(Exception):
    """What was given as "module:attribute" does not name an application."""


class TooSlow(Disconnected):
    """The peer did not read what we wrote within `Stream.patience`."""


class BadBind(ValueError):
    """The text of a bind names no place to listen."""


class WorkerLost(Exception):
    """The worker died, or the application failed, after the response had begun."""
