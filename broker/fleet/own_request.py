"""Makes a key on the machine that will use it, and the request that asks the authority for its certificate.

The key is written here and nowhere else. A second request uses the key that is there.
"""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from broker.fleet import client_folder
from broker.fleet.fleet_folder import new_key
from mpsl.errors import DiskError, IdentityError, UsageError
from mpsl.identity.authority import key_pem, new_request, read_key
from mpsl.identity.fleet_member import check_member
from mpsl.whole_file import PRIVATE, write_whole

REQUEST = "request.pem"


def make_request(folder: Path, id: str, role: str, net: str) -> tuple[Path, ec.EllipticCurvePublicKey]:
    """Write key and request to the folder; returns the request's file and the public key. Raises UsageError."""
    member = check_member(net, role, id)
    path = folder / client_folder.KEY
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = read_key(path.read_bytes()) if path.exists() else new_key()
    except OSError as error:
        raise DiskError(f"{error.filename or folder}: {error.strerror or error}") from None
    except IdentityError as error:
        raise UsageError(f"{path}: {error}; move it away, and a new one is made") from None
    if not path.exists():
        write_whole(path, key_pem(key), PRIVATE)
    write_whole(folder / REQUEST, new_request(member, key))
    return folder / REQUEST, key.public_key()
