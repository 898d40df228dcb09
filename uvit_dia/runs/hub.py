"""The Hugging Face Hub: what its library raises without network, repository or right."""

from collections.abc import Iterator
from contextlib import contextmanager

from uvit_dia.system.errors import InputError
from uvit_dia.system.messages import clip

HTTP_LIBRARIES = ("httpx", "httpx2", "requests")  # with which versions of the library ask


@contextmanager
def told_by_the_hub(what: str) -> Iterator[None]:
    """Turn what the Hub's library raises into an InputError.

    Args:
        what: the first words of the message.

    Raises:
        InputError: with the library's own reason, cut.
    """
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    kinds: tuple[type[Exception], ...] = (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        OSError,
        ValueError,
    )
    try:
        yield
    except Exception as error:
        origin = type(error).__module__.partition(".")[0]
        if not isinstance(error, kinds) and origin not in HTTP_LIBRARIES:
            raise
        raise InputError(f"{what}: {clip(' '.join(str(error).split()), 120)}") from error
