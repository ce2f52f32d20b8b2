"""The encoding host: publish an image for another host, and wait until it was fetched.

sh examples/two-hosts/make-certificates.sh DIR
python examples/two-hosts/encoder.py --certificates DIR --hand /tmp/remote     # then ranks.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import mmformat as mm
from mmformat.media.image import QwenVLImageProcessor
from mmformat.net import TLS, Publisher


def main() -> None:
    """Publish one image, and hand the remote handle over in a file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--advertise")
    parser.add_argument("--certificates", type=Path, required=True)
    parser.add_argument("--hand", type=Path, required=True)
    arguments = parser.parse_args()
    folder = arguments.certificates
    tls = TLS(
        certificate=folder / "server.pem", private_key=folder / "server.key", ca=folder / "ca.pem"
    )
    pixels = np.random.default_rng(0).integers(0, 255, (560, 560, 3), dtype=np.uint8)
    item = mm.MultimodalDataItem(modality="IMAGE", feature=mm.Source(pixels))
    inputs = mm.materialize(mm.MultimodalInputs(items=[item]), QwenVLImageProcessor())
    with (
        mm.Arena.create(nbytes=2**26, ranks=1) as arena,
        Publisher(arena, arguments.listen, advertise=arguments.advertise, tls=tls) as publisher,
    ):
        remote = publisher.publish(inputs, ttl_s=600)
        # An engine has a channel; here it is a file, which appears whole.
        partial = arguments.hand.with_suffix(".partial")
        partial.write_bytes(bytes(remote))
        partial.replace(arguments.hand)
        print(f"published {remote.nbytes:,} bytes; the remote handle has {len(bytes(remote))}")
        assert publisher.wait_acknowledged(timeout_s=600)
        print(f"fetched: {publisher.stats().sent_nbytes:,} bytes left this host")


if __name__ == "__main__":
    main()
