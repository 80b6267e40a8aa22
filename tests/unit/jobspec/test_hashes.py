"""Fingerprints: one changes with every slot, the other only with what restarts a container."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from core import jobspecs
from core.domain.jobspec import IN_PLACE, JobSlots, build, hashes, submission, variables_hash
from core.domain.jobspec_template import JobspecError, slots_in
from tests.unit.jobspec import samples

STEMS = st.sampled_from(jobspecs.STEMS)
IN_PLACE_SLOTS = {"owner", "console_link"}
# In place while the host still matches, so they are counted as restarting: see IN_PLACE.
PLACEMENT_SLOTS = {"datacenters", "node_pool", "nomad_namespace"}


@given(STEMS, samples.any_slots())
def test_same_slots_same_hashes_and_the_job_carries_its_own(stem: str, slots: JobSlots) -> None:
    template = jobspecs.template(stem).job
    built = build(template, slots)
    again = build(copy.deepcopy(template), msgspec.structs.replace(slots))
    assert again == built
    assert built.job["TaskGroups"][0]["Services"][0]["Meta"]["spec"] == built.hashes.spec


@given(st.data(), STEMS, samples.any_slots(), st.sampled_from(JobSlots.__struct_fields__))
def test_hashes_change_with_the_slots_that_the_jobspec_uses(
    data: st.DataObject, stem: str, slots: JobSlots, name: str
) -> None:
    value = getattr(data.draw(samples.any_slots()), name)
    assume(value != getattr(slots, name))
    other = msgspec.structs.replace(slots, **{name: value})
    template = jobspecs.template(stem).job
    try:
        before, after = hashes(template, slots), hashes(template, other)
    except JobspecError:
        assume(False)  # for instance more memory reserved than allowed
    used = name in slots_in(template)
    assert (before.spec != after.spec) == used
    assert (before.restart != after.restart) == (used and name not in IN_PLACE_SLOTS)


def _task(job: dict[str, Any]) -> dict[str, Any]:
    task: dict[str, Any] = job["TaskGroups"][0]["Tasks"][0]
    return task


@pytest.mark.parametrize("stem", jobspecs.STEMS)
def test_a_release_that_changes_in_place_fields_restarts_nobody(stem: str) -> None:
    template = jobspecs.template(stem).job
    before = hashes(template, samples.slots())
    for kind, fields in IN_PLACE.items():
        for field in fields:
            changed = copy.deepcopy(template)
            part = {"job": changed, "group": changed["TaskGroups"][0], "task": _task(changed)}[kind]
            part[field] = {"Changed": True}
            after = hashes(changed, samples.slots())
            assert after.spec != before.spec, field
            assert after.restart == before.restart, field


@pytest.mark.parametrize(("field", "part"), [("RestartPolicy", "RenderTemplates"), ("LogConfig", "Disabled")])
def test_the_restarting_part_of_an_in_place_field_counts(field: str, part: str) -> None:
    template = jobspecs.template("waha-plus").job
    changed = copy.deepcopy(template)
    _task(changed).setdefault(field, {})[part] = True
    assert hashes(changed, samples.slots()).restart != hashes(template, samples.slots()).restart


def test_everything_else_counts_as_restarting() -> None:
    template = jobspecs.template("waha-plus").job
    before = hashes(template, samples.slots()).restart
    for kind in ("job", "group", "task"):
        changed = copy.deepcopy(template)
        part = {"job": changed, "group": changed["TaskGroups"][0], "task": _task(changed)}[kind]
        part["FieldOfALaterNomad"] = "x"
        assert hashes(changed, samples.slots()).restart != before


def test_a_new_stop_on_disconnect_comes_with_a_new_container() -> None:
    template = jobspecs.template("waha-plus").job
    before, after = (
        hashes(template, samples.slots()),
        hashes(template, samples.slots(stop_on_disconnect_s=90)),
    )
    assert before.restart != after.restart


def test_variables_hash_depends_on_every_item_and_not_on_their_order() -> None:
    items = {"hook_key": samples.HOOK_KEY, "storage_dsn": samples.DSN}
    assert variables_hash(items) == variables_hash(dict(reversed(items.items())))
    found = {variables_hash({**items, name: value + "x"}) for name, value in items.items()}
    assert len(found | {variables_hash(items)}) == 3
    assert samples.HOOK_KEY[:16] not in variables_hash(items)


@pytest.mark.parametrize("stem", jobspecs.STEMS)
def test_submission_names_every_variable_that_the_source_declares(stem: str) -> None:
    template = jobspecs.template(stem)
    built = build(template.job, samples.slots())
    sent = submission(template.source, samples.slots(), built.hashes.spec)
    assert sent["Source"] == template.source
    assert sent["Format"] == "hcl2"
    assert {line.partition(" = ")[0] for line in sent["Variables"].splitlines()} == slots_in(template.job)
    assert f'spec_hash = "{built.hashes.spec}"' in sent["Variables"]
