"""What follows from the authorities that there are, over years, and what a certificate says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.authority import LIFETIME, PUBLISH, SKEW, SUCCESSION, Authority, Plan, new_authority, plan
from modelcache.tls.certificates import CertificateError, new_key, presented, read_certificate, signed_by
from modelcache.tls.identity import CONTROLLER, CONTROLLER_NAME, Identity

START = datetime(2026, 1, 1, tzinfo=UTC)
LONGEST = timedelta(hours=4)
DAY = timedelta(days=1)


def test_the_first_authority_signs_at_once() -> None:
    nothing = plan([], START, LONGEST)
    assert nothing == Plan((), None, successor_due=True)
    first = new_authority(START)
    assert plan([first], START, LONGEST) == Plan((first,), first, successor_due=False)


def test_a_successor_is_published_before_it_signs_and_the_old_one_trusted_until_nothing_of_it_is_left() -> None:
    first = new_authority(START)
    assert not plan([first], START + SUCCESSION - DAY, LONGEST).successor_due
    due = START + SUCCESSION
    assert plan([first], due, LONGEST).successor_due
    second = new_authority(due)
    both = [second, first]
    assert plan(both, due, LONGEST) == Plan((first, second), first, successor_due=False)
    assert plan(both, due + PUBLISH, LONGEST) == Plan((first, second), second, successor_due=False)
    almost = due + PUBLISH + LONGEST + SKEW - timedelta(seconds=1)
    assert plan(both, almost, LONGEST).kept == (first, second)
    assert plan(both, almost + timedelta(seconds=1), LONGEST) == Plan((second,), second, successor_due=False)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(min_value=0.01, max_value=60), min_size=1, max_size=40))
def test_nobody_is_ever_shown_a_certificate_that_he_does_not_trust(pauses: list[float]) -> None:
    """However irregularly the controller looks: bundles read PUBLISH ago trust what is signed now, for all its life."""
    now, authorities = START, list[Authority]()
    bundles: list[tuple[datetime, tuple[Authority, ...]]] = []
    issued: list[tuple[datetime, Authority]] = []
    for pause in pauses:
        now += pause * DAY
        wanted = plan(authorities, now, LONGEST)
        if wanted.successor_due:
            wanted = plan([*wanted.kept, new_authority(now)], now, LONGEST)
        authorities = list(wanted.kept)
        bundles.append((now, wanted.kept))
        assert wanted.signer is not None
        assert wanted.signer.expires > now
        older = [kept for at, kept in bundles if at <= now - PUBLISH]
        if older and any(authority.expires > now for authority in older[-1]):
            assert wanted.signer in older[-1]
        for at, signer in issued:
            if now - at < LONGEST and signer.expires > now:
                assert signer in wanted.kept
        issued.append((now, wanted.signer))


def test_an_authority_that_was_forgotten_for_years_is_replaced_at_once() -> None:
    first = new_authority(START)
    late = plan([first], START + 2 * LIFETIME, LONGEST)
    assert late == Plan((), None, successor_due=True)


def test_what_the_certificate_of_an_agent_says() -> None:
    authority, key = new_authority(START), new_key()
    certificate = read_certificate(authority.issue(key.public_key(), Identity("node-a"), START, LONGEST))
    assert presented(certificate).identity == Identity("node-a")
    assert certificate.not_valid_before_utc == START - SKEW
    assert certificate.not_valid_after_utc == START + LONGEST
    assert certificate.public_key() == key.public_key()
    assert signed_by(certificate, [authority.certificate])
    assert not signed_by(certificate, [new_authority(START).certificate])
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [], "else a node could pass for the controller"
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_the_controller_is_no_client() -> None:
    certificate = read_certificate(new_authority(START).issue(new_key().public_key(), CONTROLLER, START, LONGEST))
    assert presented(certificate).identity == CONTROLLER
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [CONTROLLER_NAME]


def test_nothing_outlives_its_authority() -> None:
    authority = new_authority(START)
    late = authority.expires - timedelta(minutes=1)
    certificate = read_certificate(authority.issue(new_key().public_key(), Identity("n"), late, LONGEST))
    assert certificate.not_valid_after_utc == authority.expires


def test_an_authority_survives_being_stored() -> None:
    authority = new_authority(START)
    again = Authority.decode(*authority.encoded())
    assert again.name == authority.name
    assert again == authority
    assert again.key.private_numbers() == authority.key.private_numbers()
    assert again.created == START


def test_a_key_that_is_not_its_own_or_none_at_all_is_refused_without_being_shown() -> None:
    (certificate, key), (_, other) = new_authority(START).encoded(), new_authority(START).encoded()
    with pytest.raises(CertificateError, match="not that of its certificate"):
        Authority.decode(certificate, other)
    with pytest.raises(CertificateError, match="cannot be read") as caught:
        Authority.decode(certificate, key[:100])
    assert key[40:60].decode() not in str(caught.value)
    with pytest.raises(CertificateError, match="not a certificate"):
        Authority.decode(b"nothing", key)
