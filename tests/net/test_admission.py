"""Connections are counted over all doors."""

import resource

from broker.net.admission import RESERVED_FILES, Admission, raise_file_limit


def test_a_place_given_back_is_free_again() -> None:
    admission = Admission(2)
    assert [admission.admit() for _ in range(3)] == [True, True, False]
    admission.leave()
    assert admission.admit()
    assert (admission.count, admission.refused) == (2, 1)


def test_the_file_limit_is_raised_as_far_as_the_system_lets_us() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = 300
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
        assert raise_file_limit(10) == 10
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == soft
        hard = 10**9 if before[1] == resource.RLIM_INFINITY else before[1]
        wanted = min(hard, 1_000)
        assert raise_file_limit(wanted - RESERVED_FILES) == wanted - RESERVED_FILES
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == wanted
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
