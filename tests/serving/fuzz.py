"""Requests made from the OpenAPI description, good and bad: no fault of the server, nothing undescribed."""

from collections import Counter

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


def fuzz(url: str, cases: int) -> Counter:
    """Statuses by operation; raises at the first response that the description does not allow."""
    schema = schemathesis.openapi.from_url(f"{url}/docs.json")
    seen: Counter = Counter()
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if mode is GenerationMode.NEGATIVE and not operation.body:
                continue  # nothing in it can be wrong

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(
                max_examples=cases,
                deadline=None,
                database=None,
                derandomize=True,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            def run(case):
                if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
                    case.body["model"] = "m"  # or next to all would be of models that are not there
                response = case.call(base_url=url)
                case.validate_response(response, checks=CHECKS)
                seen[f"{case.operation.label} {response.status_code}"] += 1

            run()
    return seen
