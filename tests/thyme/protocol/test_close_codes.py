"""Close codes have the numbers of IANA's registry; `websockets` is the oracle."""

from __future__ import annotations

from websockets import frames

from thyme.protocol.close_codes import CloseCode

NAMES_OF_WEBSOCKETS = {
    CloseCode.NORMAL: frames.CloseCode.NORMAL_CLOSURE,
    CloseCode.GOING_AWAY: frames.CloseCode.GOING_AWAY,
    CloseCode.PROTOCOL_ERROR: frames.CloseCode.PROTOCOL_ERROR,
    CloseCode.ABNORMAL: frames.CloseCode.ABNORMAL_CLOSURE,
    CloseCode.INVALID_DATA: frames.CloseCode.INVALID_DATA,
    CloseCode.POLICY_VIOLATION: frames.CloseCode.POLICY_VIOLATION,
    CloseCode.MESSAGE_TOO_BIG: frames.CloseCode.MESSAGE_TOO_BIG,
    CloseCode.INTERNAL_ERROR: frames.CloseCode.INTERNAL_ERROR,
    CloseCode.SERVICE_RESTART: frames.CloseCode.SERVICE_RESTART,
    CloseCode.TRY_AGAIN_LATER: frames.CloseCode.TRY_AGAIN_LATER,
}


def test_each_code_has_the_number_of_the_registry() -> None:
    assert set(NAMES_OF_WEBSOCKETS) == set(CloseCode)
    assert all(int(ours) == int(theirs) for ours, theirs in NAMES_OF_WEBSOCKETS.items())


def test_a_code_is_written_as_its_number() -> None:
    assert f"closed with {CloseCode.SERVICE_RESTART}" == "closed with 1012"
