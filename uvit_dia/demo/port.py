"""A port of this machine, bound before anything heavy is imported."""

import socket

from uvit_dia.system.errors import InputError

LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 7860


def bind(port: int, host: str = LOOPBACK) -> socket.socket:
    """Return a socket that is bound but not listening: whoever asks is refused until it does.

    Args:
        port: 0 for any that is free.
        host: address of an interface.

    Raises:
        InputError: if another program has the port, or this user may not have it.
    """
    if not 0 <= port < 2**16:
        raise InputError(f"--port {port}: allowed is 0 (any free one) to {2**16 - 1}")
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise InputError(
            f"--port {port}: {error.strerror}; give another port, or 0 for any that is free"
        ) from error
    return listener
