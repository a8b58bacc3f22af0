"""Every side computes the same id for a message that was given none."""

import uuid

from hypothesis import given
from hypothesis import strategies as st
from postroom_client.identity import made_id

from broker.core.message import made_id as brokers


@given(st.text("0123456789abcdef", min_size=8, max_size=8), st.integers(0, 2**60), st.integers(0, 2**47))
def test_the_id_is_the_brokers_and_a_uuid7(epoch: str, offset: int, at: int) -> None:
    made = made_id(epoch, offset, at)
    assert made == brokers(epoch, offset, at)
    parsed = uuid.UUID(made)
    assert (parsed.version, parsed.variant, parsed.int >> 80) == (7, uuid.RFC_4122, at)
