"""What a client greets with to prove who it is: a token, or a user and a password."""

import os


def credentials(token: str | None, user: str | None, password: str | None) -> dict[str, str]:
    """The members of the greeting. With nothing given, the token of POSTROOM_TOKEN; without that, none. Raises
    ValueError for a user without a password, or both a token and a user."""
    if user is not None or password is not None:
        if token is not None or user is None or password is None:
            raise ValueError("give either a token, or both user and password")
        return {"user": user, "password": password}
    token = token or os.environ.get("POSTROOM_TOKEN", "").strip()
    return {"token": token} if token else {}
