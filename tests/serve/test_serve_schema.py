"""The OpenAPI document says what the service does: requests made up from it find no failure and no false answer."""

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.serve.conftest import Served

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed")

POSTS = ("/v1/predict", "/v1/analyze", "/v1/embed", "/v1/explain", "/v1/label")
GETS = ("/v1/tasks", "/healthz", "/readyz", "/metrics")


@pytest.mark.filterwarnings("default")  # those of the library are not ours
@pytest.mark.parametrize(
    ("path", "method"), [*((path, "POST") for path in POSTS), *((path, "GET") for path in GETS)]
)
def test_requests_made_from_the_document_find_no_fault(served: "Served", path: str, method: str) -> None:
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    document = served.client.get("/openapi.json").json()
    schema: Any = schemathesis.openapi.from_dict(document)
    schema.app = served.app
    operation = schema[path][method]
    seen: set[int] = set()

    def ask(case: Any) -> None:
        answer = case.call(base_url="http://here")
        seen.add(answer.status_code)
        case.validate_response(
            answer,
            checks=[
                not_a_server_error,
                status_code_conformance,
                content_type_conformance,
                response_schema_conformance,
            ],
        )

    settings = hypothesis.settings(
        max_examples=40 if method == "POST" else 3,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    settings(hypothesis.given(case=operation.as_strategy())(ask))()
    assert seen


def test_tasks_that_exist_are_answered_by_the_schema(
    served: "Served",
) -> None:
    """What each task answers is what the document says of it."""
    import jsonschema_rs

    document = served.client.get("/openapi.json").json()
    components = document["components"]

    def valid(name: str, value: Any) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": components}
        validator: Any = jsonschema_rs.Draft202012Validator(schema)
        validator.validate(value)

    inputs: dict[str, Any] = {
        "mood": "a",
        "pairs": ["a", "b"],
        "names": ["a", "b"],
        "answer": ["where", "in rome"],
        "ending": ["a", ["b", "c"]],
        "order": ["a", ["b", "c"]],
    }
    for task, one in inputs.items():
        request = {"task": task, "inputs": [one]}
        valid("PredictRequest", request)
        answer = served.post("/v1/predict", request)
        assert answer.status_code == 200, answer.text
        valid("PredictAnswer", answer.json())
    valid("AnalyzeAnswer", served.post("/v1/analyze", {"texts": ["a film"]}).json())
    valid("EmbedAnswer", served.post("/v1/embed", {"texts": ["a film"]}).json())
    if served.service.explainer.possible:
        valid("ExplainRequest", {"task": "pairs", "input": ["a", "b"]})
        valid("ExplainAnswer", served.post("/v1/explain", {"task": "pairs", "input": ["a", "b"]}).json())
    valid("TasksAnswer", served.client.get("/v1/tasks").json())
    valid("ProblemAnswer", served.post("/v1/predict", {}).json())
