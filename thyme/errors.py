"""The errors of thyme, in one tree.

    ThymeError
    ├── ApplicationError      (RuntimeError)     the application broke the ASGI specification
    ├── ApplicationNotFound                      "module:attribute" names no application
    ├── BadBind               (ValueError)       the text of a bind is malformed
    ├── CertificateUnusable   (OSError)          the certificate or its key cannot be loaded
    ├── Disconnected          (ConnectionError)  the peer is gone; raised by `send`
    │   └── TooSlow                              the peer did not read within the write timeout
    ├── Incompatible                             an installed package lacks a name that we need
    ├── ReadCancelled                            a wait for bytes was ended; inside the server only
    ├── StartupFailed                            the application cannot serve
    └── WorkerLost                               the worker died after the response had begun

In parentheses: the built-in exception that each one also is. A malformed request is not an error
but an event, the `Refusal` of `protocol/head_rules.py`.
"""

from __future__ import annotations


class ThymeError(Exception):
    """Root of the errors of thyme."""


class ApplicationError(ThymeError, RuntimeError):
    """The application broke the ASGI specification; the message states what was expected."""


class ApplicationNotFound(ThymeError):
    """The text given as "module:attribute" does not name an application."""


class BadBind(ThymeError, ValueError):
    """The text of a bind is none of the forms that `server/listeners.py` accepts."""


class CertificateUnusable(ThymeError, OSError):
    """The certificate or key cannot be loaded."""


class Disconnected(ThymeError, ConnectionError):
    """The peer is gone; nothing more can be delivered to it.

    An `OSError`, as the ASGI specification requires of a `send` after the disconnect.
    """


class TooSlow(Disconnected):
    """The peer did not read what was written to it within the write timeout."""


class Incompatible(ThymeError):
    """A name of another package that thyme depends on is missing in the installed version."""


class ReadCancelled(ThymeError):
    """Another greenlet ended this wait for the peer's bytes; no byte was lost."""


class StartupFailed(ThymeError):
    """The application's startup failed; the message is the application's own."""


class WorkerLost(ThymeError):
    """The worker died, or the application failed, after the response had begun."""
