"""What /docs and /openapi.json say beyond what FastAPI finds by itself: the multipart body, the headers and the token."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from reward_server.protocol import IMAGE_TYPES, MAX_KEY, ErrorAnswer, ScoreAnswer, ScoreRequest

STATUSES = {
    400: "Malformed headers, form or JSON, another protocol, or another number of pictures than items",
    401: "No token, or a wrong one",
    408: "The body did not arrive in time",
    411: "No Content-Length",
    413: "More or larger parts than are allowed",
    415: "Another type of body, part or picture",
    422: "A picture that is not worth decoding, or an Idempotency-Key that came before with other content",
    503: "Too many requests, or no judge; come back after Retry-After seconds",
}
BODY = {
    "schema": {
        "type": "object",
        "required": ["request", "image"],
        "properties": {
            "request": {"$ref": "#/components/schemas/ScoreRequest"},
            "image": {
                "type": "array",
                "items": {"type": "string", "format": "binary"},
                "description": "Raw bytes of one picture an item, in order, after the part request",
            },
        },
    },
    "encoding": {"request": {"contentType": "application/json"}, "image": {"contentType": ", ".join(IMAGE_TYPES)}},
}
KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY},
    "description": "Printable ASCII; a request sent again with its key must have the same content",
}
SCORE_OPERATION: dict[str, Any] = {
    "operation_id": "score",
    "summary": "Judge pictures",
    "description": "One verdict a picture. What was judged before, or is being judged, is not judged again.",
    "responses": {
        200: {"model": ScoreAnswer, "description": "One result an item, in order"},
        **{status: {"model": ErrorAnswer, "description": text} for status, text in STATUSES.items()},
    },
    "openapi_extra": {"requestBody": {"required": True, "content": {"multipart/form-data": BODY}}, "parameters": [KEY]},
}
"""Keywords of FastAPI's route."""


def described(app: FastAPI, *, guarded: bool) -> dict[str, Any]:
    """The OpenAPI document."""
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    schema = ScoreRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    components = document["components"]
    components["schemas"] |= schema.pop("$defs") | {"ScoreRequest": schema}
    if guarded:
        components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"bearer": []}]
    return document
