"""Encryption: messages that only those can read who have a key, whoever runs the Redis.

Fernet, with keys derived from any text; the first key seals, every key opens, so keys are rotated
by putting a new one in front and dropping the last one when nothing sealed with it can be on its
way. Names of channels and groups are not hidden. Needs the extra `thyme[encryption]`.

https://cryptography.io/en/latest/fernet/
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gredis.errors import DecryptionFailed, GredisError

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet


class Cipher:
    """Seals and opens packed bodies; without keys, leaves them as they are."""

    def __init__(self, keys: Sequence[str | bytes] = ()) -> None:
        if isinstance(keys, str | bytes):
            raise GredisError("got one key, expected a list of keys: the first seals, all open")
        self._fernet = _fernet(keys) if keys else None

    def encrypt(self, body: bytes) -> bytes:
        """`body`, for the eyes of those who have a key."""
        if self._fernet is None:
            return body
        sealed: bytes = self._fernet.encrypt(body)
        return base64.urlsafe_b64decode(sealed)  # Fernet's text is a third longer

    def decrypt(self, body: bytes) -> bytes:
        """What was sealed; raises `DecryptionFailed` when none of our keys opens it."""
        if self._fernet is None:
            return body
        from cryptography.fernet import InvalidToken

        try:
            opened: bytes = self._fernet.decrypt(base64.urlsafe_b64encode(body))
        except InvalidToken as error:
            raise DecryptionFailed(
                "a message that none of symmetric_encryption_keys opens"
            ) from error
        return opened


def _fernet(keys: Sequence[str | bytes]) -> MultiFernet:
    try:
        from cryptography.fernet import Fernet, MultiFernet
    except ImportError as error:
        raise GredisError(
            "symmetric_encryption_keys need the package cryptography: pip install thyme[encryption]"
        ) from error
    digests = [hashlib.sha256(_bytes(key)).digest() for key in keys]
    return MultiFernet([Fernet(base64.urlsafe_b64encode(digest)) for digest in digests])


def _bytes(key: str | bytes) -> bytes:
    return key.encode() if isinstance(key, str) else key
