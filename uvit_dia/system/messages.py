"""One-line messages: how a text of others is put on a line, and which paths may be shortened.

Needs no torch.
"""

MAX_LINE = 200  # characters of a message, where shorter paths can make it fit
MIN_SHORTENED = 40  # characters of a path that are always left
LONGEST_WHOLE = 255  # characters up to which the path that a message is about is never cut
ELLIPSIS = "..."


def clip(message: object, length: int = 140) -> str:
    """Put a message of others on one line that is not too long."""
    text = " ".join(str(message).split())
    return text if len(text) <= length else text[: length - len(ELLIPSIS)] + ELLIPSIS


def printable(line: str) -> str:
    """Replace what could steer a terminal: names of others stand in messages."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in line)


def shorten_paths(line: str, length: int = MAX_LINE) -> str:
    """Shorten paths until a line fits, but keep the one that the reader must act on.

    Messages name the path that they are about first. The others lose their middle first, the
    longest ahead. The first path loses its own only if it is longer than `LONGEST_WHOLE`: below
    that it is better copied whole from a line that is too long. A path that is cut keeps its last
    part, the name of the file. Addresses of the web stay whole.
    """
    words = line.split(" ")
    paths = [index for index, word in enumerate(words) if _is_long_path(word, length)]
    others = sorted(paths[1:], key=lambda index: len(words[index]), reverse=True)
    key = [index for index in paths[:1] if len(words[index]) > LONGEST_WHOLE]
    for index in others + key:
        surplus = len(" ".join(words)) - length
        if surplus <= 0:
            break
        words[index] = _cut_middle(words[index], len(words[index]) - surplus)
    return " ".join(words)


def _is_long_path(word: str, length: int) -> bool:
    is_path = "/" in word or len(word) > length
    return is_path and len(word) > MIN_SHORTENED and "://" not in word


def _cut_middle(path: str, length: int) -> str:
    """Cut a path to about a length; the name of its file stays where that fits."""
    kept = max(MIN_SHORTENED, length) - len(ELLIPSIS)
    name = len(path) - path.rfind("/", 0, -1)
    end = min(max(kept - kept // 2, name), kept - kept // 4)
    return path[: kept - end] + ELLIPSIS + path[len(path) - end :]
