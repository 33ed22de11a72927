"""The last step of the set-up: whatever a run imports is there, and torch is the build that was pinned."""

import importlib
import sys

LIBRARIES = ["torch", "transformers", "ray", "deepspeed", "tensorboard"]
PACKAGES = ["configs", "unigrpo", "rollout_workers", "reward_server", "learner", "cluster"]


def main() -> None:
    for name in LIBRARIES + PACKAGES:
        importlib.import_module(name)
    import torch
    from vllm import LLM  # fails, where `import vllm` does not, when a torchvision for another torch is installed
    from vllm.platforms import current_platform

    if "+cpu" not in torch.__version__:
        sys.exit(
            f"torch {torch.__version__} is not the CPU build of requirements/cpu.lock; delete .venv and run the set-up again"
        )
    current_platform.import_kernels()
    if not hasattr(torch.ops._C, "rms_norm"):
        sys.exit("vLLM's CPU kernels did not load (the warning above says why); they need libnuma and a processor with AVX2")
    print(f"torch {torch.__version__}, {LLM.__name__} ready")


if __name__ == "__main__":
    main()
