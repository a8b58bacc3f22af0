"""The document held against the real daemon: requests made from it, good and bad, and every answer as it says.

Bounded: so many requests per operation, always the same ones. What lasts by its nature (streams) is left out.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import checks
from schemathesis.core.control import SkipTest
from schemathesis.generation import GenerationMode

from tests.system.served import Served

pytestmark = pytest.mark.system

REQUESTS = 25
LASTING = ("stream",)
CONFIG = """
[http]
max_wait = "20ms"
[queues.mailer]
topics = ["orders/#"]
[streams.audit]
topics = ["orders/#"]
"""
CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]
MADE = settings(
    max_examples=REQUESTS,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("schemathesis"), CONFIG) as served:
        yield served.ready()
        assert not served.errors()


@pytest.mark.parametrize("mode", GenerationMode)
def test_answers_are_as_the_document_says(served: Served, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"http://{served.address('http')}/openapi.json")
    schema.config.generation.update(modes=[mode])
    failures: list[str] = []
    tried = 0
    for result in schema.get_all_operations():
        operation: Any = result.ok()  # type: ignore[union-attr]  # an error has none, and fails
        if operation.definition.raw["operationId"] in LASTING:
            continue
        try:
            _hold(operation, mode)
            tried += 1
        except SkipTest:  # it takes nothing that could be bad
            continue
        except (Exception, BaseExceptionGroup) as error:  # all operations are tried before it is told
            failures.append(f"{operation.label}: {error}")
    assert not failures, "\n\n".join(failures)
    assert tried > 20


def _hold(operation: Any, mode: GenerationMode) -> None:
    @MADE
    @given(case=operation.as_strategy(generation_mode=mode))
    def hold(case: Any) -> None:
        case.call_and_validate(checks=CHECKS, timeout=10)

    hold()
