"""tools/install-consul.sh, with an apt that only pretends."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "tools" / "install-consul.sh"

# Answers what the script asks of apt; only the archive $SERVES has the package. Shows what it was told.
APT_GET = """#!/bin/sh
for word in "$@"; do case $word in Dir::Etc::sourcelist=*) list=${word#*=} ;; esac; last2=$last; last=$word; done
cat "$list" >> "$LOG"
grep -q "$SERVES" "$list" || { echo "E: nothing here"; exit 100; }
if [ "$last2 $last" = "download consul" ]; then touch consul_1.8.7_amd64.deb; fi
"""
APT_CONFIG = """#!/bin/sh
echo "list='$ETC/sources.list'"; echo "parts='$ETC/sources.list.d'"
"""
DPKG_DEB = """#!/bin/sh
mkdir -p "$3/usr/bin"
printf '#!/bin/sh\\n%s\\n' "$PROGRAM" > "$3/usr/bin/consul"; chmod +x "$3/usr/bin/consul"
"""


TOOLS = (
    "sh",
    "awk",
    "cat",
    "chmod",
    "grep",
    "head",
    "install",
    "mkdir",
    "mktemp",
    "mv",
    "rm",
    "tail",
    "touch",
)


class Machine:
    """A folder that looks like a Debian machine to the script."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.program = "echo Consul v1.8.7"
        self.serves = "http://mirror"
        for path in ("bin", "etc/sources.list.d", "prefix/bin"):
            (folder / path).mkdir(parents=True)
        # Nothing else is on PATH: the machine that the tests run on may have a consul.
        for name in TOOLS:
            found = shutil.which(name)
            assert found is not None
            (folder / "bin" / name).symlink_to(found)
        for name, text in (("apt-get", APT_GET), ("apt-config", APT_CONFIG), ("dpkg-deb", DPKG_DEB)):
            self.add_program(name, text)

    def add_program(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def one_line(self, text: str, name: str = "sources.list") -> None:
        (self.folder / "etc" / name).write_text(text)

    def deb822(self, text: str) -> None:
        (self.folder / "etc" / "sources.list.d" / "debian.sources").write_text(text)

    def run(self) -> subprocess.CompletedProcess[str]:
        env = {
            "PATH": f"{self.folder}/bin",
            "LOG": str(self.log),
            "ETC": str(self.folder / "etc"),
            "PREFIX": str(self.folder / "prefix"),
            "SERVES": self.serves,
            "PROGRAM": self.program,
        }
        return subprocess.run([str(SCRIPT)], env=env, capture_output=True, text=True, timeout=60, check=False)

    def asked(self) -> list[str]:
        """The source lines that apt was given, in order, each once."""
        return list(dict.fromkeys(self.log.read_text().splitlines())) if self.log.exists() else []

    @property
    def installed(self) -> Path:
        return self.folder / "prefix" / "bin" / "consul"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_one_line_format(machine: Machine) -> None:
    machine.one_line(
        "# deb http://mirror/commented bookworm main\n"
        "deb-src http://mirror/source bookworm main\n"
        "deb [arch=amd64 signed-by=/usr/share/keyrings/d.gpg] http://mirror/debian bookworm contrib main # why\n"
        "deb http://mirror/debian-security bookworm-security main\n"
        "deb http://mirror/other stable nonfree\n"
    )
    done = machine.run()
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"install-consul: installed Consul v1.8.7 as {machine.installed}\n"
    assert machine.asked() == ["deb [signed-by=/usr/share/keyrings/d.gpg] http://mirror/debian bullseye main"]
    assert os.access(machine.installed, os.X_OK)


def test_deb822_format(machine: Machine) -> None:
    machine.deb822(
        "Types: deb deb-src\n"
        "# http://mirror/commented\n"
        "URIs: http://mirror/one\n"
        "  http://mirror/two\n"
        "Suites: bookworm bookworm-updates\n"
        "Components: main contrib\n"
        "Signed-By: /usr/share/keyrings/d.gpg\n"
        "\n"
        "Types: deb\nEnabled: no\nURIs: http://mirror/disabled\nSuites: bookworm\nComponents: main\n"
        "\n"
        "Types: deb-src\nURIs: http://mirror/source\nSuites: bookworm\nComponents: main\n"
        "\n"
        "Types: deb\nURIs: http://mirror/debian-security\nSuites: bookworm-security\nComponents: main\n"
    )
    machine.serves = "http://mirror/two"
    assert machine.run().returncode == 0
    assert machine.asked() == [
        "deb [signed-by=/usr/share/keyrings/d.gpg] http://mirror/one bullseye main",
        "deb [signed-by=/usr/share/keyrings/d.gpg] http://mirror/two bullseye main",
    ]


def test_lists_in_the_folder_count_and_a_key_inside_of_a_stanza_is_left_to_apt(machine: Machine) -> None:
    machine.one_line("deb http://mirror/debian bookworm main\n", "sources.list.d/debian.list")
    machine.deb822(
        "Types: deb\nURIs: http://mirror/inline\nSuites: bookworm\nComponents: main\n"
        "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mDMEYCQjIxYJ\n"
    )
    machine.serves = "http://mirror/inline"
    assert machine.run().returncode == 0
    assert machine.asked() == [
        "deb http://mirror/debian bullseye main",
        "deb http://mirror/inline bullseye main",
    ]


def test_a_consul_on_path_is_enough(machine: Machine) -> None:
    machine.add_program("consul", "#!/bin/sh\n")
    done = machine.run()
    assert done.returncode == 0
    assert "already here" in done.stdout
    assert machine.asked() == []


def test_nobody_has_the_package(machine: Machine) -> None:
    machine.one_line("deb http://elsewhere/debian bookworm main\n")
    done = machine.run()
    assert done.returncode == 1
    assert "no archive of this machine's apt could serve consul from suite bullseye" in done.stderr
    assert not machine.installed.exists()


def test_no_archive_is_configured(machine: Machine) -> None:
    done = machine.run()
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "names no Debian archive" in done.stderr


def test_a_program_that_does_not_run_here_is_not_installed(machine: Machine) -> None:
    machine.one_line("deb http://mirror/debian bookworm main\n")
    machine.program = "exit 1"
    done = machine.run()
    assert done.returncode == 1
    assert "does not run on this machine" in done.stderr
    assert not machine.installed.exists()


def test_a_place_that_may_not_be_written_to(machine: Machine) -> None:
    machine.one_line("deb http://mirror/debian bookworm main\n")
    (machine.folder / "prefix" / "bin").rmdir()
    done = machine.run()
    assert done.returncode == 1
    assert "may not be written to; run it as root" in done.stderr


def test_no_host_is_written_into_the_script() -> None:
    assert "://" not in SCRIPT.read_text()
