"""XLA's flags for tests: they need correct numbers, not fast code, and compiling takes most of their time."""

import importlib.metadata

FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
# Its newer emitters take a third of the time that a small program compiles; after 0.10 there are no others.
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) <= (0, 10):
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
