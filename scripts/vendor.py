"""Recreate the vendored JavaScript and CSS from their npm packages and write VENDOR.lock beside them.

``python scripts/vendor.py`` downloads with ``npm pack``; ``--check`` only compares hashes and needs no
network."""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Package:
    """An npm package and the members to take from it, as {member: file name here}."""

    name: str
    version: str
    licence: str
    folder: str
    files: dict[str, str]


SITE, BROWSER_TESTS = "site/static/vendor", "tests/browser/vendor"
PACKAGES = (
    Package(
        "datatables.net",
        "3.1.2",  # the version that datatables.net-dt asks for
        "MIT",
        SITE,
        {"js/dataTables.min.js": "dataTables.min.js", "License.txt": "LICENSE.datatables.txt"},
    ),
    Package(
        "datatables.net-dt",
        "3.1.2",
        "MIT",
        SITE,
        {
            "css/dataTables.dataTables.min.css": "dataTables.dataTables.min.css",
            "License.txt": "LICENSE.datatables-dt.txt",
        },
    ),
    Package(
        "axe-core",
        "4.14.1",
        "MPL-2.0",
        BROWSER_TESTS,
        {
            "axe.min.js": "axe.min.js",
            "LICENSE": "LICENSE.axe-core.txt",
            "LICENSE-3RD-PARTY.txt": "LICENSE.axe-core-3rd-party.txt",
        },
    ),
)


def fetch(package: Package, target: Path) -> list[dict[str, str]]:
    """Write the package's files into ``target``; return their lock entries."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", f"{package.name}@{package.version}"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (archive,) = Path(folder).glob("*.tgz")
        entries = []
        with tarfile.open(archive) as tar:
            for member, name in package.files.items():
                stream = tar.extractfile(f"package/{member}")
                if stream is None:
                    raise SystemExit(f"{package.name} {package.version} has no file {member}.")
                data = stream.read()
                (target / name).write_bytes(data)
                entries.append(
                    {
                        "file": name,
                        "name": package.name,
                        "version": package.version,
                        "licence": package.licence,
                        "source": member,
                        "sha256": hashlib.sha256(data).hexdigest(),
                    }
                )
    return entries


def mismatches(folder: Path) -> list[str]:
    """What differs between a vendor folder and its VENDOR.lock, one sentence each."""
    lock = json.loads((folder / "VENDOR.lock").read_text(encoding="utf-8"))
    listed = {entry["file"]: entry["sha256"] for entry in lock}
    present = {path.name for path in folder.iterdir()} - {"VENDOR.lock"}
    wrong = [f"{folder / name} is not in VENDOR.lock." for name in sorted(present - listed.keys())]
    wrong += [f"{folder / name} is missing." for name in sorted(listed.keys() - present)]
    for name in sorted(listed.keys() & present):
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != listed[name]:
            wrong.append(f"{folder / name} differs from its hash in VENDOR.lock.")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare the files with VENDOR.lock; change nothing")
    folders = sorted({package.folder for package in PACKAGES})
    if parser.parse_args().check:
        wrong = [line for folder in folders for line in mismatches(ROOT / folder)]
        print("\n".join(wrong) or "All vendored files match VENDOR.lock.")
        return int(bool(wrong))
    for folder in folders:
        target = ROOT / folder
        target.mkdir(parents=True, exist_ok=True)
        entries = [e for package in PACKAGES if package.folder == folder for e in fetch(package, target)]
        (target / "VENDOR.lock").write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
        print(f"{target}: {len(entries)} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
