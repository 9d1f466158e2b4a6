"""Encryption: only processes that have a key can read messages, whoever operates Redis.

Fernet, with keys derived from any text. The first key encrypts, and every key decrypts. To rotate
keys, put a new one in front, and drop the last one when no message encrypted with it can be under
way. Names of channels and groups are not hidden. Needs the extra `thyme[encryption]`.

https://cryptography.io/en/latest/fernet/
Read next: `channels/layer.py`.
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
    """Encrypts and decrypts packed bodies. Without keys, it returns them unchanged."""

    def __init__(self, keys: Sequence[str | bytes] = ()) -> None:
        if isinstance(keys, str | bytes):
            raise GredisError(
                "got one key, expected a list of keys: the first one encrypts, all decrypt"
            )
        self._fernet = _fernet(keys) if keys else None

    def encrypt(self, body: bytes) -> bytes:
        """Return `body`, encrypted with the first key."""
        if self._fernet is None:
            return body
        token: bytes = self._fernet.encrypt(body)
        return base64.urlsafe_b64decode(token)  # Fernet's text is a third longer

    def decrypt(self, body: bytes) -> bytes:
        """Return the decrypted body. Raises `DecryptionFailed` if no key decrypts it."""
        if self._fernet is None:
            return body
        from cryptography.fernet import InvalidToken

        try:
            decrypted: bytes = self._fernet.decrypt(base64.urlsafe_b64encode(body))
        except InvalidToken as error:
            raise DecryptionFailed(
                "no key of symmetric_encryption_keys decrypts a message"
            ) from error
        return decrypted


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
