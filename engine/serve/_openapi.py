"""The OpenAPI document of a server, from the dialects' own types."""

from typing import Any

import msgspec

from crossrank import __version__

from ._dialects import DIALECTS, PATHS

_FAILURES = {
    "400": "no JSON, or no documents",
    "401": "no key",
    "404": "no such model",
    "408": "the body did not come",
    "413": "too many bytes, documents or tokens",
    "422": "something in the body is not what it can be",
    "424": "the model failed, in the form of text-embeddings-inference",
    "429": "too much waits already: see Retry-After",
    "500": "the model failed",
    "503": "the server is shutting down",
}
# Of the answers of rerank calls.
HEADERS = {
    "X-Rerank-Status": "complete, or partial where the budget did not suffice for all documents",
    "X-Rerank-Scored": "how many documents have a score, of how many: 63/100",
    "X-Rerank-Truncated": "how many documents were not read to their end; absent where all were",
    "X-Request-Id": "the request's, or a new one",
}
_READ = {
    "/health": "alive",
    "/v1/health/live": "alive",
    "/ready": "ready: each model has just computed a score",
    "/v1/health/ready": "ready: each model has just computed a score",
    "/info": "the first model, in the form of text-embeddings-inference",
    "/v1/models": "the models",
    "/metrics": "metrics in Prometheus' form",
    "/openapi.json": "this document",
    "/docs": "this document as a page",
    "/": "a page to try models with",
}
_KEYED = ("/info", "/v1/models", "/metrics")


def openapi() -> dict[str, Any]:
    """The document. A path whose body decides names all its dialects."""
    types = [body for dialect in DIALECTS for body in (dialect.body, dialect.reply)]
    # Types of one name in several files are told apart by their dialects' names.
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    pairs = {d.name: (schemas[2 * i], schemas[2 * i + 1]) for i, d in enumerate(DIALECTS)}
    paths: dict[str, Any] = {}
    for path, dialects in PATHS.items():
        names = [dialect.name for dialect in dialects]
        clean = path.replace(":path", "")
        headers = {name: {"schema": {"type": "string"}, "description": text} for name, text in HEADERS.items()}
        operation: dict[str, Any] = {
            "summary": f"Rank documents: {', '.join(names)}",
            "requestBody": _content({"anyOf": [pairs[name][0] for name in names]}) | {"required": True},
            "parameters": [_budget()],
            "responses": {
                "200": {"description": "the ranking", "headers": headers}
                | _content({"anyOf": [pairs[name][1] for name in names]})
            }
            | {status: {"description": text} for status, text in _FAILURES.items()},
        }
        if "{model}" in clean:
            model = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
            operation["parameters"].append(model)
        paths[clean] = {"post": operation}
    for path, text in _READ.items():
        answers = {"200": {"description": text}}
        if path in _KEYED:
            answers["401"] = {"description": "no key"}
        if text.startswith("ready"):
            answers["503"] = {"description": "not ready"}
        paths[path] = {"get": {"summary": text, "responses": answers}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "crossrank serve",
            "version": __version__,
            "description": "One port that every rerank client speaks to. Scores are probabilities, but for NVIDIA's "
            "form and where raw_scores asks for logits. Other keys of a body are ignored.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def _content(schema: Any) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}


def _budget() -> dict[str, Any]:
    return {
        "name": "X-Rerank-Budget-Ms",
        "in": "header",
        "description": "milliseconds from the request to the answer: the best ranking within them",
        "schema": {"type": "number", "exclusiveMinimum": 0},
    }
