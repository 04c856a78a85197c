"""What can be wrong with a request. The messages are for whoever sent it: they name no file of the server."""

from __future__ import annotations


class RequestError(Exception):
    """A request that cannot be answered; `status` is the HTTP code."""

    status = 422
    retry_after: int | None = None


class NotAllowed(RequestError):
    """It asks for what this server does not give."""

    status = 403


class Unknown(RequestError):
    """It names a reference that is not there."""

    status = 404


class Unfit(RequestError):
    """It names a reference of another model, or asks for what cannot be had yet."""

    status = 409


class TooSlow(RequestError):
    """There was no answer in time."""

    status = 504


class ModelFailed(RequestError):
    """The model raised something that no request should make it raise."""

    status = 500


class Busy(RequestError):
    """Too many wait already; seconds: when to come again."""

    status = 503

    def __init__(self, message: str, seconds: int):
        super().__init__(message)
        self.retry_after = seconds
