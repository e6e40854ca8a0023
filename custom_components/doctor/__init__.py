"""Check stages before they train: find what would spoil a run while it is cheap to fix."""

from custom_components.doctor.checks import examine
from custom_components.doctor.doctor_config import DoctorConfig
from custom_components.doctor.evaluation import EvaluationProblems
from custom_components.doctor.findings import Finding, blocking, refuse, show
from custom_components.doctor.stage import Stage

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
