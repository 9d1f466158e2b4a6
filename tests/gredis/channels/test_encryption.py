"""Encryption and rotation of keys."""

import pytest

from gredis.channels.encryption import Cipher
from gredis.errors import DecryptionFailed, GredisError


def test_what_was_encrypted_with_any_of_the_keys_is_decrypted():
    old, both = Cipher(["old"]), Cipher(["new", b"old"])
    assert both.decrypt(old.encrypt(b"sesame")) == b"sesame"
    assert Cipher(["new"]).decrypt(both.encrypt(b"sesame")) == b"sesame"


def test_nothing_readable_is_left():
    assert b"sesame" not in Cipher(["key"]).encrypt(b"sesame")


@pytest.mark.parametrize("body", [b"", b"not encrypted", Cipher(["other"]).encrypt(b"x")])
def test_what_no_key_decrypts_is_an_error(body):
    with pytest.raises(DecryptionFailed, match="no key"):
        Cipher(["key"]).decrypt(body)


def test_without_keys_bodies_are_unchanged():
    assert Cipher().encrypt(b"x") == b"x" == Cipher().decrypt(b"x")


@pytest.mark.parametrize("keys", ["key", b"key"])
def test_one_key_is_not_a_list_of_keys(keys):
    with pytest.raises(GredisError, match="expected a list of keys"):
        Cipher(keys)
