"""`cortex-gateway`: reads the command line and the files, then serves or only checks.

Owns: arguments and exit codes (0 fine, 1 cannot listen, 2 a file or argument is wrong). Imports little at the top: each
file that the role renders is checked by a process of its own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from cortex_contracts.inventory.files import ConfigInvalid, judge
from cortex_gateway import config
from cortex_serving.lasting import lasting_imports


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code is returned."""
    options = _parser().parse_args(arguments)
    checks: list[tuple[str, Callable[[str], object]]] = []
    if options.check_config:
        checks.append((options.check_config, config.read_settings))
    if options.check_models:
        checks.append((options.check_models, config.read_models))
    if options.check_keys:
        checks.append((options.check_keys, config.read_keys))
    try:
        return _check(checks) if checks else _serve(options.config, options.models, options.keys)
    except ConfigInvalid as invalid:
        print(invalid, file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cortex-gateway", description="One endpoint for the fleet's models.")
    parser.add_argument("--config", default="/etc/cortex/cortex.toml", help="default: %(default)s")
    parser.add_argument("--models", default="/etc/cortex/models.toml", help="default: %(default)s")
    parser.add_argument("--keys", metavar="FILE", help="without it nobody needs a key, and nobody is an operator")
    parser.add_argument("--check-config", metavar="FILE", help="check a cortex.toml and serve nothing")
    parser.add_argument("--check-models", metavar="FILE", help="check a models.toml and serve nothing")
    parser.add_argument("--check-keys", metavar="FILE", help="check a keys.toml and serve nothing")
    return parser


def _check(checks: list[tuple[str, Callable[[str], object]]]) -> int:
    judge(checks)
    print("ok")
    return 0


def _serve(config_path: str, models_path: str, keys_path: str | None) -> int:
    with lasting_imports():
        from cortex_gateway import start

    return start.run(lambda: config.read(config_path, models_path, keys_path), config_path)
