"""mmformat verify: which promises of the format a message breaks."""

from __future__ import annotations

import argparse
from typing import Final

from mmformat.cli.files import add_paths, each_message
from mmformat.cli.options import Subparsers, add_command
from mmformat.cli.output import Output

__all__ = ["register"]

_EPILOG: Final = """\
examples:
  mmformat verify x.arrows && echo sound
  mmformat verify recordings/ --json | jq '.files[] | select(.findings != [])'

exit status: 0 every message keeps every promise; 1 one does not; 3 one could not be read
"""


def register(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "verify",
        run=run,
        caption="name each broken promise of the format, with its clause",
        description="Read every byte of messages and name each promise of the format that is "
        "broken, with its\nclause in schemas/v1/SPEC.md. 'refused' says that decoding refuses the "
        "message for it.",
        epilog=_EPILOG,
    )
    add_paths(parser)


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Verify every message: 0 when all are sound, 1 when one is not, 3 when one cannot be read."""
    from mmformat.codec.verify import verify

    found, complete = each_message(arguments, output, verify)
    broken = sum(1 for _, findings in found if findings)
    if output.wants_json:
        output.json(
            {
                "files": [
                    {"path": str(path), "findings": [finding._asdict() for finding in findings]}
                    for path, findings in found
                ]
            }
        )
    else:
        for path, findings in found:
            if not findings:
                output.text(f"{path}: sound")
                continue
            rows = [
                (each.clause, each.code, "yes" if each.refused else "no", each.path, each.message)
                for each in findings
            ]
            output.table(
                ("clause", "code", "refused", "where", "what"),
                rows,
                title=f"{path}: {len(findings)} broken",
            )
    if not complete:
        return 3
    return 1 if broken else 0
