"""The errors of the server's own parts.

    ThymeError
    ├── ApplicationError     the application sent something HTTP or WebSocket cannot carry
    ├── CertificateUnusable  for TLS; an OSError, too
    ├── StartupFailed        the application said that it cannot serve
    └── ReadCancelled        somebody ended a wait for bytes (inside the server only)

`Disconnected` (an `OSError`: the peer has gone) is what an application sees: `application.py`.
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


class ReadCancelled(ThymeError):
    """The wait for the peer's bytes was ended from another greenlet; no byte was taken."""
