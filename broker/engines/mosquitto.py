"""Finds mosquitto and derives its configuration. It must never start it.

mosquitto ignores `-p` if its file names a listener, so the derived file has the wanted address in its first listener.
It is passed on stdin, and the working directory stays the caller's, so relative paths in the file keep their meaning.
"""

import os
import pwd
import shutil
from dataclasses import dataclass
from pathlib import Path

from broker.engines.launch import Launch
from mpsl.errors import UsageError
from mpsl.text_file import read_text

DEFAULT_PORT = 1883
ALL_INTERFACES = ""
"""The host of a listener that names none."""

SETTINGS = """\
allow_anonymous true
max_packet_size 16777216
max_queued_messages 1000
max_inflight_messages 100
set_tcp_nodelay true
persistence false
log_dest stderr
log_type error
log_type warning
log_type notice
"""
"""The settings without a file. mosquitto.conf in the project's root has the same ones and explains each."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_ADMIN_DIRECTORIES = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def program() -> str | None:
    """Return the absolute path of mosquitto, or None. Debian installs it in /usr/sbin, which may not be on the PATH."""
    return shutil.which("mosquitto", path=os.pathsep.join([os.environ.get("PATH", ""), *_ADMIN_DIRECTORIES]))


@dataclass(frozen=True)
class Configuration:
    """The lines of a mosquitto.conf, understood as far as its first listener.

    A listener is defined by a `listener` line or, for the "default listener", by `port` and `bind_address`. Lines above
    the first `listener` line belong to the default listener. Included files and Unix sockets are ignored.
    """

    lines: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> "Configuration":
        """Read the file at `path`. Raises UsageError if it cannot be read."""
        return cls(tuple(read_text(path).splitlines()))

    @classmethod
    def default(cls) -> "Configuration":
        """Return the configuration without a file."""
        return cls((f"listener {DEFAULT_PORT} 127.0.0.1", *SETTINGS.splitlines()))

    @property
    def host(self) -> str:
        """The host of the first listener; loopback if the file names no listener, as in mosquitto."""
        explicit = self._listener()
        if explicit is not None:
            words = self.lines[explicit].split()
            return words[2] if len(words) > 2 else ALL_INTERFACES
        return self._value("bind_address") or (ALL_INTERFACES if self._value("port") else "127.0.0.1")

    @property
    def port(self) -> int:
        """The port of the first listener; 1883 if the file names none. Raises UsageError if it is not a number."""
        explicit = self._listener()
        word = self._value("port") or str(DEFAULT_PORT)
        if explicit is not None:
            word = "".join(_words(self.lines[explicit])[1:2])
        if not word.isdigit():
            raise UsageError(f"mosquitto configuration: the first listener's port {word!r} is not a number")
        return int(word)

    @property
    def encrypted(self) -> bool:
        """Whether the first listener speaks TLS."""
        explicit = self._listener()
        for line in self.lines[0 if explicit is None else explicit + 1 :]:
            if _words(line)[0] == "listener":
                return False
            if _words(line)[0] in ("certfile", "keyfile", "psk_hint"):
                return True
        return False

    @property
    def user(self) -> str:
        """The user that mosquitto changes to if root starts it; "" for the present one."""
        name = self._value("user") or "mosquitto"
        known = name in (entry.pw_name for entry in pwd.getpwall())
        return name if os.geteuid() == 0 and known and name != "root" else ""

    def listening(self, host: str, port: int) -> str:
        """Return the file with its first listener on `host` and `port`.

        The user stays the present one, because the parent process has already changed it.
        """
        lines = list(self.lines)
        explicit = self._listener()
        if explicit is not None:
            lines[explicit] = f"listener {port} {host}"
        else:
            lines = [line for line in lines if _words(line)[0] not in ("port", "bind_address")]
            # Without a listener, mosquitto accepts everyone on loopback; with one, it must be told to.
            if host in LOOPBACK and not (self._value("port") or self._value("allow_anonymous")):
                lines.insert(0, "allow_anonymous true")
            lines.insert(0, f"listener {port} {host}")
        return "\n".join([*(line for line in lines if _words(line)[0] != "user"), "user root", ""])

    def _listener(self) -> int | None:
        """Return the number of the line that defines the first listener; None for the default listener."""
        for number, line in enumerate(self.lines):
            key, *values = _words(line)
            if key in ("port", "bind_address"):
                return None
            if key == "listener" and values[:1] != ["0"]:
                return number
        return None

    def _value(self, key: str) -> str:
        """Return the first value of `key`; "" if the file has none."""
        return next((" ".join(words[1:]) for words in map(_words, self.lines) if words[0] == key), "")


def launch(executable: str, configuration: Configuration, host: str, port: int) -> Launch:
    """Return how to start mosquitto with `configuration`, its first listener moved to `host` and `port`."""
    return Launch(
        (executable, "-c", "/dev/stdin"),
        configuration.listening(host, port),
        user=configuration.user,
        answers_connect=not configuration.encrypted,
    )


def _words(line: str) -> list[str]:
    """Return the words of a line; [""] for a comment or an empty line."""
    return [""] if line.lstrip().startswith("#") else line.split() or [""]
