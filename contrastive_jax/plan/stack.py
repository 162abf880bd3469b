"""A larger stack for the compiler of TPU programs, which has to be set before the process begins."""

import os
import sys
from collections.abc import Sequence

from contrastive_jax.plan.chips import CHIPS


def restart_with_larger_stack(argv: Sequence[str], topologies: Sequence[str] = ()) -> None:
    """Starts this process anew with the largest stack that is allowed, if it compiles for TPUs.

    libtpu's compiler is recursive. Compiling CPC for sixteen v6e ended by SIGSEGV with the usual limit of 8 MiB, with
    1 GB, and with a limit that was raised in the process; in a process that began without a limit it did not.

    Args:
      argv: the arguments of the command. Nothing is done if they are not those of the process: it does something else.
      topologies: further topologies, which the arguments do not name.
    """
    try:
        import resource
    except ImportError:  # Windows, for which there is no libtpu
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    own = sys.orig_argv[len(sys.orig_argv) - len(argv) :] == [*argv]
    if soft == hard or not own or not any(map(_names_tpus, (*argv, *topologies))):
        return
    resource.setrlimit(resource.RLIMIT_STACK, (hard, hard))
    os.execv(sys.executable, sys.orig_argv)


def _names_tpus(argument: str) -> bool:
    chip = CHIPS.get(argument.removeprefix('--topology=').partition(':')[0])
    return chip is not None and chip.platform == 'tpu'
