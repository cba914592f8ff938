"""`python -m kdfast`: version, build, devices, every backend and the reason against it. --json, --check.

With a command of `kdfast` behind it (`python -m kdfast distill nd`) it is that command.
"""

from __future__ import annotations

import argparse
import json
import sys

from kdfast.info import info
from kdfast.self_check import self_check


def _show(facts: dict) -> None:
    build = facts["build"]
    git, compiler = build.get("git") or "unknown", build.get("compiler") or "not compiled"
    print(f"kdfast {facts['version']}  (git {git}, {compiler})")
    print(f"torch {facts['torch']}, CUDA {facts['torch_cuda'] or 'none'}, Triton {facts['triton'] or 'none'}")
    print(f"Python {facts['python']}, CPU level {facts['cpu_level']}, {facts['cpu_threads']} threads")
    print(f"GPUs: {', '.join(facts['gpus']) or 'none'}")
    if build.get("cuda"):
        print(f"CUDA kernels: CUDA {build['cuda']} for {build['cuda_archs']}")
    else:
        print(f"CUDA kernels: none, {build.get('no_cuda_reason') or 'the library was not built'}")
    for device, backends in facts["backends"].items():
        print(f"\nbackends for {device} tensors")
        for name, reason in backends.items():
            print(f"  {name:<10}{'runs' if reason is None else 'cannot run: ' + reason}")
    for name, value in facts["environment"].items():
        print(f"\n{name}={value}")


def main() -> int:
    """Prints the facts; with --check computes every op on every backend, and exits with 1 if one is wrong."""
    if sys.argv[1:] and not sys.argv[1].startswith("-"):
        from kdfast import cli

        return cli.main()
    parser = argparse.ArgumentParser(prog="python -m kdfast", description=__doc__)
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    parser.add_argument("--check", action="store_true", help="compute every op on every backend that runs")
    options = parser.parse_args()
    facts = info()
    results = self_check() if options.check else []
    if options.json:
        print(json.dumps(facts | ({"check": results} if options.check else {}), indent=2))
    else:
        _show(facts)
        for result in results:
            print(
                f"\n{result['op']} on {result['backend']} ({result['device']}): {result['verdict']}", end=""
            )
        print(end="\n" if results else "")
    return int(any(result["verdict"] != "right" for result in results))


if __name__ == "__main__":
    sys.exit(main())
