"""What makes tests quick: they need correct numbers, not fast code, and compile tens of thousands of tiny programs."""

import gc
import importlib.metadata
import threading

JAXLIB = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2]))

# Of XLA.
FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
# Its newer emitters take a third of the time that a small program compiles; after 0.10 there are no others.
if JAXLIB <= (0, 10):
    FLAGS += " --xla_cpu_use_fusion_emitters=false"


def prepare():
    """Make this process quick at tracing and lowering."""
    # Collecting after every 700 objects took 9 % of the time: tracing makes many, and few of them are garbage.
    gc.set_threshold(50_000, 50, 100)
    if JAXLIB >= (0, 12):
        return
    # Ten programs are lowered in one context of MLIR, as JAX itself does later: making one took a tenth of the time.
    from jax._src.interpreters import mlir

    make, kept = mlir.make_ir_context, threading.local()

    def make_ir_context():
        context, left = getattr(kept, "context", (None, 0))
        if not left:
            context, left = make(), 10
        kept.context = context, left - 1
        return context

    mlir.make_ir_context = make_ir_context
