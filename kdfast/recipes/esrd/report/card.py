"""Words of the report: what the reader should know first, the model card, the published result."""

from __future__ import annotations

from dataclasses import dataclass

from kdfast.recipes.esrd.study import Study

WARNING = (
    "Research software, not a medical device. Nothing in this report may decide about the care of a "
    "person. A model must be validated on a clinic's own people, prospectively, before anyone relies on "
    "it."
)
SYNTHETIC_NOTE = (
    "These people are synthetic. What was planted: effects of true kidney function, albuminuria, diabetes,"
    " heart failure and admissions on risk; none of race, stroke, calcium or blood pressure; creatinine "
    "follows the race-free equation. Good results here show that the pipeline finds what is there, and "
    "nothing about real people."
)
PUBLISHED = (
    "Published by Li and Padman (arXiv 2410.01859, JAMIA 2025) for 10,326 people with CKD, 2009 to 2018: "
    "an LSTM was best, AUROC 0.93 and F1 0.65, and 24 months the best window; integrated records beat a "
    "single source; the 2021 eGFR equation was more accurate and less biased. Their data are private. The "
    "numbers are quoted as published; they were not reproduced here and are no target of this report."
)
LIMITS = (
    "One cohort, no external validation. Codes and laboratory habits differ between payers and places. Few "
    "events: intervals are wide, that of F1 above all."
)
WEIGHTED = (
    "People whose follow-up ends early are represented by similar people (inverse probability weights), "
    "which assumes that leaving is unrelated to risk."
)


@dataclass(frozen=True)
class Facts:
    """What the card says of this run."""

    outcome: str
    people: str
    features: int
    steps: int
    student: str
    performance: str
    teacher: str
    race: str


def card(study: Study, facts: Facts) -> dict[str, str]:
    """Heading -> text."""
    windowed = study.cohort is not None
    steps = f" in {facts.steps} steps of three months" if windowed else ""
    return {
        "Intended use": "research and teaching on predicting the outcome from routine records",
        "Not for": "decisions about care, insurance or benefits; children; people unlike the cohort",
        "Outcome": facts.outcome,
        "Data": study.provenance,
        "People": facts.people,
        "Input": f"{facts.features} features{steps}, raw units, gaps allowed",
        "Output": "calibrated probability of the outcome",
        "Student": facts.student,
        "Performance": facts.performance,
        "Teacher": facts.teacher,
        "Judged on": "people that neither teacher nor student has seen; intervals by bootstrap over people",
        "Race": facts.race,
        "Limits": f"{LIMITS} {WEIGHTED}" if windowed else LIMITS,
        "Before any use": "recalibrate on local people and check the subgroups there",
    }
