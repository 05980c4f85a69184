"""User names and passwords for brokers that want them, beside certificates or in their place.

A password is random, and written to its member's folder alone; the broker's file has hashes, in mosquitto's form.
"""

import base64
import hashlib
import secrets
from pathlib import Path
from urllib.parse import quote

from broker.fleet import broker_files, client_folder
from broker.fleet.fleet_folder import FleetFolder
from mpsl.errors import UsageError
from mpsl.text_file import read_text
from mpsl.whole_file import PRIVATE, write_whole

PASSWORDS = "passwords"
PASSWORD_BYTES, SALT_BYTES = 24, 12
ITERATIONS = 101
"""mosquitto's own number. The passwords are random and long, so that nobody tries them all."""


def make_passwords(folder: FleetFolder) -> tuple[Path, int]:
    """Give each member without a password one, and write the broker's file of all. Returns it, and how many are new."""
    register = folder.register()
    lines, new = [], 0
    for member in register.everyone():
        client = folder.client(member.id)
        if not client.is_dir():
            raise UsageError(f"{client}: is not here; restore it, or revoke {member.id} and add it again")
        path = client / client_folder.PASSWORD
        if path.exists():
            password = read_text(path).strip("\n")
        else:
            password, new = secrets.token_urlsafe(PASSWORD_BYTES), new + 1
            write_whole(path, f"{password}\n", PRIVATE)
        url = register.url.replace("://", f"://{quote(member.id, safe='')}@", 1)
        options = client_folder.agent_options(member, url, client_folder.PASSWORD)
        write_whole(client / client_folder.AGENT, options)
        lines.append(f"{member.id}:{hashed(password, secrets.token_bytes(SALT_BYTES))}\n")
    broker_files.put_file(folder.broker, PASSWORDS, "".join(lines))
    return folder.broker / PASSWORDS, new


def hashed(password: str, salt: bytes) -> str:
    """A password as mosquitto's `password_file` has it: PBKDF2 with SHA-512."""
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS)
    return f"$7${ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"
