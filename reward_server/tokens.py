"""Bearer tokens: read where they are needed, checked, and never written anywhere."""

import os

from configs.remote import Credentials


def read_token(credentials: Credentials) -> str | None:
    """The configured token without surrounding white space; None where the config asks for none.

    Raises ValueError, naming the variable or file and never quoting what it holds, when that is missing, empty or anything but
    printable ASCII without spaces.
    """
    if credentials.token_env is not None:
        source, content = f"the environment variable {credentials.token_env}", os.environ.get(credentials.token_env)
    elif credentials.token_file is not None:
        source = f"the file {credentials.token_file}"
        try:
            content = credentials.token_file.read_bytes().decode("ascii", errors="replace")
        except OSError as error:
            raise ValueError(f"{source} cannot be read ({error.strerror}); it must hold the bearer token") from None
    else:
        return None
    if content is None:
        raise ValueError(f"{source} is not set; it must hold the bearer token")
    token = content.strip()
    if not token:
        raise ValueError(f"{source} is empty; it must hold the bearer token")
    if not all("!" <= character <= "~" for character in token):
        raise ValueError(f"{source} holds something that is no bearer token; allowed are printable ASCII characters, no spaces")
    return token
