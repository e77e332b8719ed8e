"""What a plan has to know beforehand, without torch: this machine, the model, and the code.

``here`` asks the machine through its driver and PyTorch's version file, ``code`` a sample of the
tree, ``subject`` the tables or the model's folder; ``plans`` puts it together. Nothing here opens a
connection.
"""

from repotune.survey.code import code_in, given_code
from repotune.survey.here import named_target, this_target, torch_build, usable_gpu
from repotune.survey.plans import plans
from repotune.survey.subject import Subject, all_subjects, find_subject

__all__ = [
    "Subject",
    "all_subjects",
    "code_in",
    "find_subject",
    "given_code",
    "named_target",
    "plans",
    "this_target",
    "torch_build",
    "usable_gpu",
]
