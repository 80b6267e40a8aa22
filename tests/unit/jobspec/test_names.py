"""Names that stand for a user or a chip: valid, stable, distinct, within every limit."""

from __future__ import annotations

import re
import uuid

from hypothesis import given
from hypothesis import strategies as st

from core.crypto import new_namespace
from core.domain import names

IDS = st.uuids().map(str)


@given(IDS, IDS)
def test_names_are_valid_stable_distinct_and_reversible(one: str, other: str) -> None:
    for make in (names.job_id, names.session_name, names.variable_path, names.container_name):
        assert make(one) == make(one)
        assert (make(one) == make(other)) == (one == other)
    assert names.user_of_job(names.job_id(one)) == one
    assert names.chip_of_session(names.session_name(one)) == one
    # Nomad: job ids and variable paths; WAHA: sessions.
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,128}", names.job_id(one))
    assert re.fullmatch(r"[a-zA-Z0-9\-_~/]{1,128}", names.variable_path(one))
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,54}", names.session_name(one))
    assert names.session_name(one) == names.session_name(one).lower()


@given(IDS, st.builds(new_namespace))
def test_a_session_database_is_never_cut_by_postgresql(chip: str, namespace: str) -> None:
    assert names.is_namespace(namespace)
    database = names.database_name(namespace, names.session_name(chip))
    assert len(database) <= names.POSTGRES_NAME_LIMIT
    # Nothing is lost on the way: the database says whose it is.
    assert database == f"waha_{namespace}_chip_{chip}"


@given(IDS, IDS, st.builds(new_namespace), st.builds(new_namespace))
def test_databases_of_different_chips_or_users_differ(one: str, other: str, a: str, b: str) -> None:
    first = names.database_name(a, names.session_name(one))
    second = names.database_name(b, names.session_name(other))
    assert (first == second) == ((a, one) == (b, other))


@given(st.text())
def test_other_texts_are_no_ids_of_ours(text: str) -> None:
    if names.parse_id(text) is None:
        assert names.user_of_job(names.JOB_PREFIX + text) is None
        assert names.chip_of_session(names.SESSION_PREFIX + text) is None
    else:
        assert str(uuid.UUID(text)) == names.parse_id(text)


def test_the_service_name_is_what_consul_and_nomad_take() -> None:
    assert re.fullmatch(r"[a-z0-9-]{1,63}", names.SERVICE_NAME)
