"""What guard and API say to each other survives the way as JSON, and its secrets show in no repr."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from core.domain.egress_errors import EgressError
from core.domain.guard_wire import Answer, Ask, Renew, Renewed, Route, Standing, Upstream, Usage, UsageRow
from core.store import guard_leases

texts, counts = st.text(max_size=20), st.integers(0, 2**62)
upstreams = st.builds(Upstream)
messages = (
    st.builds(Renew, asks=st.tuples(st.builds(Ask)), closed=st.tuples(st.builds(Ask)))
    | st.builds(
        Renewed,
        answers=st.tuples(st.builds(Answer, ttl_s=st.floats(0, 600))),
        routes=st.tuples(st.builds(Route)),
    )
    | st.builds(
        Usage,
        rows=st.tuples(
            st.builds(UsageRow, bytes_in=counts, errors=st.dictionaries(st.sampled_from(EgressError), counts))
        ),
    )
)


@given(messages)
def test_every_message_is_read_as_it_was_written(message: Renew | Renewed | Usage) -> None:
    assert msgspec.json.decode(msgspec.json.encode(message), type=type(message)) == message


@given(st.text(min_size=12, max_size=20))
def test_credentials_of_upstreams_are_masked(secret: str) -> None:
    upstream = Upstream("socks5", "gw", 1, secret, secret, "generic")
    route = Route("a", "u", "c", 1, "label", upstream)
    for shown in (repr(upstream), repr(route), repr(Renewed((), (route,)))):
        assert repr(secret)[1:-1] not in shown.replace("password=", "").replace("username=", "")


def test_the_store_speaks_the_same_words() -> None:
    assert (guard_leases.Ask, guard_leases.Answer, guard_leases.Standing) == (Ask, Answer, Standing)
