"""Passwords kept out of all that is printed, logged and recorded."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from segmentation.errors import InputError

HIDDEN = "***"
"""Stands where a password stood."""
ADDRESSES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_ARTIFACT_URI", "MLFLOW_BACKEND_STORE_URI")
"""Variables of the environment that may hold a password among other things."""
PASSWORDS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY",
             "AWS_SESSION_TOKEN", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_CONNECTION_STRING")  # fmt: skip
"""Variables that hold nothing else."""
SHORTEST = 4
"""Characters of a password of the environment that is redacted; a shorter one is found by chance."""

WORDS = "(?:[a-z_]*(?:password|passwd|passphrase|secret|token|api_?key|access_?key|signature)|pwd|sig)"
IN_ADDRESS = re.compile(
    r"""(?P<kept>\b[a-z][a-z0-9+.-]*://[^\s/?\#@:]*:)  # scheme://user:
        (?: \S* | (?!\d+(?:[/?\#\s]|$)) [^@\n]* )@""",  # all up to the last @, whatever it is; no port and then text
    re.IGNORECASE | re.VERBOSE,
)
AS_USER = re.compile(r"(?P<kept>\bhttps?://)[^\s/?#@:]{16,}@", re.IGNORECASE)
AS_VALUE = re.compile(
    rf"(?P<kept>\b{WORDS}\s*=\s*)(?!{re.escape(HIDDEN)})(?:'[^']*'|\"[^\"]*\"|[^\s&;,]+)", re.IGNORECASE
)


def without_password(text: str) -> str:
    """A text in which `***` stands for every password.

    These are what stands before the `@` of an address, as in `http://user:password@host`, a token in the user's place,
    values called `password`, `token`, `secret` and the like, as in `?password=...`, and, wherever they stand, the
    passwords in the environment that MLflow and PostgreSQL read. Of these only whole values are redacted, never a part
    of a word or an address's scheme: a password may be an everyday word. For messages, errors and tags; structured data
    goes through `without_spelled_password`.
    """
    for password in sorted(_of_environment(), key=len, reverse=True):
        text = re.sub(_as_whole(password), HIDDEN, text)
    return without_spelled_password(text)


def without_spelled_password(text: str) -> str:
    """A text in which `***` stands for what its spelling shows to be a password, whatever the environment holds.

    For values that mean something else when they happen to equal a password, such as `split=test` or a user's name.
    """
    text = IN_ADDRESS.sub(rf"\g<kept>{HIDDEN}@", text)
    text = AS_USER.sub(rf"\g<kept>{HIDDEN}@", text)
    return AS_VALUE.sub(rf"\g<kept>{HIDDEN}", text)


def _as_whole(password: str) -> str:
    """A pattern that finds a password where it is no part of a word or of an address's scheme."""
    before = r"(?<!\w)" if re.match(r"\w", password) else ""
    after = r"(?!\w)" if re.search(r"\w$", password) else ""
    return rf"{before}{re.escape(password)}{after}(?![\w+.-]*://)"


def redacted(content: Any) -> Any:
    """JSON content with the passwords that spelling shows taken out of its texts, and nothing else changed."""
    if isinstance(content, str):
        return without_spelled_password(content)
    if isinstance(content, Mapping):
        return {name: redacted(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [redacted(value) for value in content] if isinstance(content, list) else tuple(map(redacted, content))
    return content


def hidden(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values by name, without the passwords in texts among them."""
    return {name: without_password(value) if isinstance(value, str) else value for name, value in values.items()}


def refuse_passwords(arguments: Sequence[str]) -> None:
    """Raise an `InputError` for a command line that holds a password, before any of it is recorded."""
    name = "the command line"
    for argument in arguments:
        flag, _, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        name = flag.removeprefix("--") or name
        if without_spelled_password(value) != value:
            raise InputError(
                f"{name} holds a password, and MLflow shows parameters to everybody; take it out, and give it in the "
                f"environment: PGPASSWORD or ~/.pgpass for PostgreSQL, MLFLOW_TRACKING_PASSWORD for MLflow. If "
                f"`mlflow run` was given it, MLflow has recorded it by now: change that password"
            )


def keep_apart() -> None:
    """Take user and password out of MLflow's addresses and put them where MLflow reads them, too.

    Otherwise MLflow's own messages would show them.
    """
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        address = os.environ.get(name, "")
        apart = separated(address)
        if apart is None:
            continue
        bare, user, password = apart
        given = os.environ.get("MLFLOW_TRACKING_USERNAME", user), os.environ.get("MLFLOW_TRACKING_PASSWORD", password)
        if given == (user, password):
            os.environ.update({
                name: bare, "MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password,
            })  # fmt: skip


def separated(address: str) -> tuple[str, str, str] | None:
    """An HTTP address without user and password, and these two; None where there is no password in it."""
    if not address.lower().startswith(("http://", "https://")):
        return None
    try:
        parts = urlsplit(address)
        user, password = parts.username, parts.password
    except ValueError:
        return None
    if password is None:
        return None
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return bare, unquote(user or ""), unquote(password)


def _of_environment() -> set[str]:
    found = {os.environ.get(name, "") for name in PASSWORDS}
    for name in ADDRESSES:
        for password in re.findall(r"://[^\s/?#@:]*:(.*)@", os.environ.get(name, "")):
            found |= {password, unquote(password)}
    return {password for password in found if len(password) >= SHORTEST}
