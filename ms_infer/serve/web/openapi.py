"""The OpenAPI description of the HTTP side, with the JSON schema of the WebSocket's controls."""

from __future__ import annotations

from typing import Any

from ms_infer._version import __version__
from ms_infer.serve.protocol import control_schema


def openapi() -> dict[str, Any]:
    """OpenAPI 3.1 as plain values."""
    controls = control_schema()
    schemas = {**controls.pop("$defs", {}), "Control": controls, "Session": _SESSION}
    return {
        "openapi": "3.1.0",
        "info": {"title": "ms-serve", "version": __version__, "description": "Live motion-controlled video."},
        "paths": {
            "/healthz": {"get": _operation("The process runs")},
            "/readyz": {"get": {**_operation("The model is loaded"), "responses": {**_OK, "503": _text("loading")}}},
            "/metrics": {"get": _operation("Prometheus text format")},
            "/ws": {
                "get": {"summary": "WebSocket; see docs/reference/protocol.md", "responses": {"101": _text("upgrade")}}
            },
            "/api/sessions": {
                "get": {"summary": "Open sessions", "responses": {"200": _json("sessions", _ref_list("Session"))}}
            },
            "/api/sessions/{session}/image": {"post": _upload("First frame: JPEG, PNG, WebP or GIF; starts over")},
            "/api/sessions/{session}/video": {"post": _upload("Motion to follow: MP4, MOV or WebM")},
            "/api/sessions/{session}/recording": {
                "get": {
                    "summary": "The finished recording, mp4",
                    "parameters": _OWNER,
                    "responses": {**_OK, **_NOT_FOUND},
                }
            },
        },
        "components": {"schemas": schemas},
    }


def _text(summary: str) -> dict[str, Any]:
    return {"description": summary}


def _operation(summary: str) -> dict[str, Any]:
    return {"summary": summary, "responses": _OK}


def _json(summary: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": summary, "content": {"application/json": {"schema": schema}}}


def _ref_list(name: str) -> dict[str, Any]:
    items = {"type": "array", "items": {"$ref": f"#/components/schemas/{name}"}}
    return {"type": "object", "properties": {"sessions": items}, "required": ["sessions"]}


def _upload(summary: str) -> dict[str, Any]:
    refusals = {"413": _text("too large"), "422": _text("unreadable"), **_NOT_FOUND}
    return {
        "summary": summary,
        "parameters": _OWNER,
        "requestBody": {"required": True, "content": {"application/octet-stream": {}}},
        "responses": {**_OK, **refusals},
    }


_OK = {"200": {"description": "ok"}}
_NOT_FOUND = {"404": {"description": "no such session, or another one's"}}
_OWNER = [
    {"name": "session", "in": "path", "required": True, "schema": {"type": "string"}},
    {"name": "x-session-key", "in": "header", "required": True, "schema": {"type": "string"}},
]
_SESSION = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "state": {"enum": ["waiting", "running", "paused", "stopped"]},
        "resting": {"type": "boolean"},
        "chunk": {"type": "integer"},
        "seconds": {"type": "number"},
        "fps": {"type": "number"},
        "watchers": {"type": "integer"},
        "owner_connected": {"type": "boolean"},
    },
}
