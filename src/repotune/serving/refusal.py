"""A request that is refused, as an HTTP status and OpenAI's error object."""

from __future__ import annotations

from typing import Any


class Refusal(Exception):
    """Not the user's to mend in the terminal but the client's: it is sent, never shown."""

    def __init__(self, status: int, message: str, kind: str = "invalid_request_error") -> None:
        """``kind`` is OpenAI's ``type`` of the error."""
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind

    def body(self) -> dict[str, Any]:
        """What is sent."""
        return {"error": {"message": self.message, "type": self.kind, "code": self.status}}
