"""Running a program that a model wrote, where it can do nothing but compute.

``seccomp`` is the filter of system calls, ``child`` the process that locks itself in and runs the
program, ``run`` starts it and waits, ``check`` attacks it to see whether it holds on this system.

The program has no network, no other process, no thread, no environment, and no file that it could
write, create or delete; it reads the standard library and the system's shared libraries and nothing
else, so no home and nothing of ``/proc``; it has bounds of memory, of processor time and of time;
what it prints goes nowhere, and whether it passed is its exit status. No right of root is needed,
nor is one used. Two locks, both of the kernel's, and neither can be taken off: Landlock for what is
read, seccomp for everything else.
"""

from repotune.sandbox.check import unavailable
from repotune.sandbox.run import LIMITS, Limits, Outcome, run_program

__all__ = ["LIMITS", "Limits", "Outcome", "run_program", "unavailable"]
