"""Remove passwords from everything that is printed, logged and recorded."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from segmentation.errors import InputError

HIDDEN = "***"
"""Replaces a password."""
ADDRESSES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_ARTIFACT_URI", "MLFLOW_BACKEND_STORE_URI")
"""Environment variables that may contain a password as a part."""
PASSWORDS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY",
             "AWS_SESSION_TOKEN", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_CONNECTION_STRING")  # fmt: skip
"""Environment variables that are a password."""
SHORTEST = 4
"""Passwords with fewer characters are not searched for: ordinary text contains them by chance."""

WORDS = "(?:[a-z_]*(?:password|passwd|passphrase|secret|token|api_?key|access_?key|signature)|pwd|sig)"
IN_ADDRESS = re.compile(
    r"""(?P<before>\b[a-z][a-z0-9+.-]*://[^\s/?\#@:]*:)  # scheme://user:
        (?: \S* | (?!\d+(?:[/?\#\s]|$)) [^@\n]* )@""",  # everything up to the last @, unless it is a port
    re.IGNORECASE | re.VERBOSE,
)
AS_USER = re.compile(r"(?P<before>\bhttps?://)[^\s/?#@:]{16,}@", re.IGNORECASE)
AS_VALUE = re.compile(
    rf"(?P<before>\b{WORDS}\s*=\s*)(?!{re.escape(HIDDEN)})(?:'[^']*'|\"[^\"]*\"|[^\s&;,]+)", re.IGNORECASE
)


def without_password(text: str) -> str:
    """Replace every password in a text by `***`.

    Replaced are: what precedes the `@` of an address (`http://user:password@host`), a token in the place of the user,
    values of `password=`, `token=`, `secret=` and the like, and the passwords that MLflow and PostgreSQL read from the
    environment. The latter are replaced as whole words only, and never as the scheme of an address, since a password
    may be an ordinary word. Use it for messages, errors and tags; use `redacted` for structured data.
    """
    for password in sorted(_environment_passwords(), key=len, reverse=True):
        text = re.sub(_as_whole(password), HIDDEN, text)
    return without_password_syntax(text)


def without_password_syntax(text: str) -> str:
    """Replace the passwords that the syntax of a text reveals by `***`, without looking at the environment.

    For values that may equal a password by chance, such as `split=test` or a user name.
    """
    text = IN_ADDRESS.sub(rf"\g<before>{HIDDEN}@", text)
    text = AS_USER.sub(rf"\g<before>{HIDDEN}@", text)
    return AS_VALUE.sub(rf"\g<before>{HIDDEN}", text)


def _as_whole(password: str) -> str:
    """Return a pattern for a password as a whole word that is not the scheme of an address."""
    before = r"(?<!\w)" if re.match(r"\w", password) else ""
    after = r"(?!\w)" if re.search(r"\w$", password) else ""
    return rf"{before}{re.escape(password)}{after}(?![\w+.-]*://)"


def redacted(content: Any) -> Any:
    """Return JSON content with the passwords that syntax reveals replaced in its texts."""
    if isinstance(content, str):
        return without_password_syntax(content)
    if isinstance(content, Mapping):
        return {name: redacted(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [redacted(value) for value in content] if isinstance(content, list) else tuple(map(redacted, content))
    return content


def hidden(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values by name, with the passwords in texts replaced."""
    return {name: without_password(value) if isinstance(value, str) else value for name, value in values.items()}


def refuse_passwords(arguments: Sequence[str]) -> None:
    """Raise an `InputError` for a command line with a password, before it is recorded."""
    name = "the command line"
    for argument in arguments:
        flag, _, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        name = flag.removeprefix("--") or name
        if without_password_syntax(value) != value:
            raise InputError(
                f"{name} holds a password, and MLflow shows parameters to everybody. Remove it, and set it in the "
                f"environment: PGPASSWORD or ~/.pgpass for PostgreSQL, MLFLOW_TRACKING_PASSWORD for MLflow. If you "
                f"used `mlflow run`, MLflow has recorded the password already: change it"
            )


def move_credentials_to_environment() -> None:
    """Move user and password from MLflow's addresses to the variables that MLflow reads them from.

    MLflow prints addresses in its own messages.
    """
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        address = os.environ.get(name, "")
        parts = split_credentials(address)
        if parts is None:
            continue
        bare, user, password = parts
        current = os.environ.get("MLFLOW_TRACKING_USERNAME", user), os.environ.get("MLFLOW_TRACKING_PASSWORD", password)
        if current == (user, password):
            os.environ.update({
                name: bare, "MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password,
            })  # fmt: skip


def split_credentials(address: str) -> tuple[str, str, str] | None:
    """Split an HTTP address into the bare address, user and password; None for an address without a password."""
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


def _environment_passwords() -> set[str]:
    """Return the passwords in the environment, also as they are quoted in an address."""
    found = {os.environ.get(name, "") for name in PASSWORDS}
    for name in ADDRESSES:
        for password in re.findall(r"://[^\s/?#@:]*:(.*)@", os.environ.get(name, "")):
            found |= {password, unquote(password)}
    return {password for password in found if len(password) >= SHORTEST}
