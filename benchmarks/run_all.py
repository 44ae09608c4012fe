"""Run every benchmark and write its table to `benchmarks/results/`: `make bench`.

Leave the machine alone meanwhile: the studies take hours.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SCRIPTS = (
    "startup", "randomized_quantization", "views", "pretraining", "linear_probe", "sigreg",
    "fake_quantize", "ssql_step", "bits_grid", "int8", "log_mel", "audio_views", "codebooks",
    "modalities", "demo", "ssql", "ssql_finetune", "momentum_step", "linear_sweep",
    "token_cache", "policies", "multi_views", "detection", "bridle", "massrl", "norm_rescale",
)  # fmt: skip


def main() -> None:
    failed = []
    for name in SCRIPTS:
        print(f"benchmarks/{name}.py …", flush=True)
        done = subprocess.run(
            [sys.executable, HERE / f"{name}.py"], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            (HERE / "results" / f"{name}.md").write_text(done.stdout, encoding="utf-8")
        else:
            failed.append(name)
            print(done.stderr[-1000:], file=sys.stderr)
    if failed:
        sys.exit(f"these failed, and their old results stand: {', '.join(failed)}")


if __name__ == "__main__":
    main()
