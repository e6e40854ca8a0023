"""Checks before training: what would spoil a run, found while it is cheap to mend."""

from custom_components.doctor.checks import EvaluationProblems, examine
from custom_components.doctor.findings import DoctorConfig, Finding, Stage, blocking, refuse, show

__all__ = [
    "DoctorConfig",
    "EvaluationProblems",
    "Finding",
    "Stage",
    "blocking",
    "examine",
    "refuse",
    "show",
]
