"""Fetches Debian packages of Go libraries, with all that they need, from the unstable release and unpacks them.

packages.py FOLDER PACKAGE...
"""

import lzma
import pathlib
import re
import subprocess
import sys
import urllib.request

MIRROR = "http://deb.debian.org/debian/"


def index():
    """The packages for every architecture, by name and by what they stand in for."""
    with urllib.request.urlopen(MIRROR + "dists/sid/main/binary-all/Packages.xz") as answer:
        text = lzma.decompress(answer.read()).decode()
    packages = {}
    for paragraph in text.split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", paragraph, re.M))
        if "Package" not in fields:
            continue
        packages[fields["Package"]] = fields
        for stands_for in names(fields.get("Provides", "")):
            packages.setdefault(stands_for, fields)
    return packages


def names(relation):
    """The first alternative of each package in a relationship field, without versions."""
    return [re.split(r"[ (|:]", part.strip())[0] for part in relation.split(",") if part.strip()]


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    packages, wanted, seen = index(), sys.argv[2:], set()
    while wanted:
        name = wanted.pop()
        if name in seen or name not in packages:
            continue
        seen.add(name)
        fields = packages[name]
        archive = folder / "package.deb"
        urllib.request.urlretrieve(MIRROR + fields["Filename"], archive)
        subprocess.run(["dpkg", "-x", archive, folder], check=True)
        archive.unlink()
        wanted += [n for n in names(fields.get("Depends", "")) if re.fullmatch(r"golang-.*-dev", n)]


main()
