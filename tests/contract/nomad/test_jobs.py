"""Registering, changing, stopping and purging jobs."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.nomad.cluster import SECOND, Cluster


def test_a_registered_job_is_read_back_with_every_default(cluster: Cluster) -> None:
    job_id = cluster.name()
    task = {"Templates": [{"EmbeddedTmpl": "A=1", "DestPath": "local/a.env", "Envvars": True}]}
    service = {
        "Name": "web",
        "PortLabel": "http",
        "Checks": [{"Type": "tcp", "Interval": 10**10, "Timeout": 10**9}],
    }
    spec = cluster.job(
        job_id, task=task, group={"Services": [service], "Disconnect": {"StopOnClientAfter": 10**10}}
    )
    reply = cluster.register(spec)
    assert reply["EvalID"]
    assert reply["JobModifyIndex"] == reply["Index"] == reply["EvalCreateIndex"] > 0
    if cluster.release >= (2, 0, 1):
        advice = (
            'group "app" defines services, but neither the group nor any of its tasks have shutdown_delay set'
        )
        assert reply["Warnings"] == f"1 warning:\n\n* {advice}"
    else:
        assert reply["Warnings"] == ""
    job = cluster.get(f"/v1/job/{job_id}")
    for field in ("SubmitTime", "CreateIndex", "ModifyIndex"):
        assert job.pop(field) > 0
    assert job.pop("JobModifyIndex") == reply["JobModifyIndex"]
    assert job.pop("Status") in ("pending", "running")
    expected = _stored(job_id)
    if cluster.release >= (2,):
        [group] = expected["TaskGroups"]
        group["MaxRunDuration"] = None
        group["Tasks"][0]["Secrets"] = None
        group["Tasks"][0]["Identity"]["ExtraClaims"] = None
    assert job == expected


def _stored(job_id: str) -> dict[str, Any]:
    restart = {
        "Attempts": 0,
        "Interval": 60 * SECOND,
        "Delay": SECOND,
        "Mode": "fail",
        "RenderTemplates": False,
    }
    health = {"HealthCheck": "checks", "MinHealthyTime": 10 * SECOND, "HealthyDeadline": 300 * SECOND}
    nothing = dict.fromkeys(("Constraints", "Affinities", "Meta"))
    check = {
        **dict.fromkeys(("Args", "Header", "CheckRestart")),
        **dict.fromkeys(("Expose", "TLSSkipVerify", "GRPCUseTLS"), False),
        **dict.fromkeys(("SuccessBeforePassing", "FailuresBeforeCritical", "FailuresBeforeWarning"), 0),
        **dict.fromkeys(
            ("Command", "Path", "Protocol", "PortLabel", "AddressMode", "InitialStatus", "Notes"), ""
        ),
        **dict.fromkeys(("TLSServerName", "Method", "GRPCService", "TaskName", "Body"), ""),
        "Name": 'service: "web" check',
        "Type": "tcp",
        "Interval": 10 * SECOND,
        "Timeout": SECOND,
        "OnUpdate": "require_healthy",
    }
    service = {
        **dict.fromkeys(
            ("Tags", "CanaryTags", "Connect", "Meta", "CanaryMeta", "Weights", "TaggedAddresses")
        ),
        **dict.fromkeys(("TaskName", "Address", "Kind"), ""),
        "Identity": None,
        "Name": "web",
        "PortLabel": "http",
        "AddressMode": "auto",
        "EnableTagOverride": False,
        "Checks": [check],
        "Namespace": "default",
        "OnUpdate": "require_healthy",
        "Provider": "consul",
        "Cluster": "default",
    }
    template = {
        **dict.fromkeys(("ChangeScript", "Uid", "Gid", "Wait")),
        **dict.fromkeys(("SourcePath", "ChangeSignal"), ""),
        "DestPath": "local/a.env",
        "EmbeddedTmpl": "A=1",
        "ChangeMode": "restart",
        "Once": False,
        "Splay": 5 * SECOND,
        "Perms": "0644",
        "LeftDelim": "{{",
        "RightDelim": "}}",
        "Envvars": True,
        "VaultGrace": 0,
        "ErrMissingKey": False,
    }
    task = {
        **nothing,
        **dict.fromkeys(("Env", "Services", "Vault", "Consul", "DispatchPayload", "Lifecycle", "Artifacts")),
        **dict.fromkeys(
            ("VolumeMounts", "ScalingPolicies", "CSIPluginConfig", "Identities", "Actions", "Schedule")
        ),
        "Name": "main",
        "Driver": "raw_exec",
        "User": "",
        "Config": {"command": "/bin/sh", "args": ["-c", "exec sleep 600"]},
        "Templates": [template],
        "Resources": {
            "CPU": 10,
            "Cores": 0,
            "MemoryMB": 16,
            "MemoryMaxMB": 0,
            "DiskMB": 0,
            "IOPS": 0,
            "SecretsMB": 0,
            **dict.fromkeys(("Networks", "Devices", "NUMA")),
        },
        "RestartPolicy": restart,
        "KillTimeout": 2 * SECOND,
        "LogConfig": {"MaxFiles": 1, "MaxFileSizeMB": 1, "Disabled": False},
        "Leader": False,
        "ShutdownDelay": 0,
        "KillSignal": "",
        "Kind": "",
        "Identity": {
            **dict.fromkeys(("ChangeMode", "ChangeSignal", "Filepath", "ServiceName"), ""),
            "Name": "default",
            "Audience": ["nomadproject.io"],
            "Env": False,
            "File": False,
            "TTL": 0,
        },
    }
    group = {
        **nothing,
        **dict.fromkeys(("Scaling", "Spreads", "Consul", "Volumes", "ShutdownDelay")),
        **dict.fromkeys(("StopAfterClientDisconnect", "MaxClientDisconnect")),
        "Name": "app",
        "Count": 1,
        "Constraints": [{"LTarget": "${attr.consul.version}", "RTarget": ">= 1.8.0", "Operand": "semver"}],
        "Update": {
            **health,
            "Stagger": 30 * SECOND,
            "MaxParallel": 0,
            "ProgressDeadline": 600 * SECOND,
            "AutoRevert": False,
            "AutoPromote": False,
            "Canary": 0,
        },
        "Migrate": {**health, "MaxParallel": 1},
        "RestartPolicy": restart,
        "ReschedulePolicy": {
            "Attempts": 0,
            "Interval": 0,
            "Delay": 30 * SECOND,
            "DelayFunction": "exponential",
            "MaxDelay": 3600 * SECOND,
            "Unlimited": False,
        },
        "Disconnect": {
            "LostAfter": 0,
            "StopOnClientAfter": 10 * SECOND,
            "Replace": True,
            "Reconcile": "best_score",
        },
        "Tasks": [task],
        "EphemeralDisk": {"Sticky": False, "SizeMB": 20, "Migrate": False},
        "Networks": [{"DynamicPorts": [{"Label": "http", "HostNetwork": "default"}]}],
        "Services": [service],
        "PreventRescheduleOnLost": False,
    }
    return {
        **nothing,
        **dict.fromkeys(
            ("Spreads", "Multiregion", "Periodic", "ParameterizedJob", "Payload", "UI", "VersionTag")
        ),
        **dict.fromkeys(("ParentID", "DispatchIdempotencyToken", "ConsulNamespace", "VaultNamespace"), ""),
        **dict.fromkeys(("NomadTokenID", "StatusDescription"), ""),
        **dict.fromkeys(("Stop", "AllAtOnce", "Dispatched", "Stable"), False),
        "Region": "global",
        "Namespace": "default",
        "ID": job_id,
        "Name": job_id,
        "Type": "service",
        "Priority": 50,
        "Datacenters": ["*"],
        "NodePool": "default",
        "TaskGroups": [group],
        "Update": {
            "Stagger": 30 * SECOND,
            "MaxParallel": 1,
            "HealthCheck": "",
            "MinHealthyTime": 0,
            "HealthyDeadline": 0,
            "ProgressDeadline": 0,
            "AutoRevert": False,
            "AutoPromote": False,
            "Canary": 0,
        },
        "Version": 0,
    }


def test_requests_that_the_http_layer_refuses(cluster: Cluster) -> None:
    job = cluster.job(cluster.name())
    refused = [
        ("/v1/jobs", {}, "Job must be specified"),
        ("/v1/jobs", {"Job": {}}, "Job ID hasn't been provided"),
        ("/v1/job/another", {"Job": job}, "Job ID does not match name"),
        (f"/v1/job/{job['ID']}/plan", {}, "Job must be specified"),
        ("/v1/job/another/scale", {}, "missing task group name for scaling action"),
    ]
    for path, body, text in refused:
        reply = cluster.http.put(path, json=body)
        assert (reply.status_code, reply.text) == (400, text)
        assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert cluster.http.put("/v1/jobs", content=b"{bad").status_code == 400


BAD_JOBS: list[dict[str, Any]] = [
    {"job": {"ID": "a b"}},
    {"job": {"TaskGroups": []}},
    {"job": {"Type": "nonsense"}},
    {"job": {"Datacenters": [""]}},
    {"group": {"Tasks": []}},
    {"group": {"Count": -1}},
    {"group": {"Name": ""}},
    {"task": {"Driver": ""}},
    {"task": {"Name": ""}},
    {"task": {"Resources": {"CPU": 10, "MemoryMB": 5}}},
    {"task": {"Resources": {"CPU": 10, "MemoryMB": 50, "MemoryMaxMB": 20}}},
    {"task": {"LogConfig": {"MaxFiles": 10, "MaxFileSizeMB": 10}}},
    {"task": {"KillTimeout": -1}},
    {"task": {"Templates": [{"EmbeddedTmpl": "A=1", "DestPath": ""}]}},
    {"task": {"Templates": [{"EmbeddedTmpl": "", "DestPath": "local/x"}]}},
    {"task": {"Templates": [{"EmbeddedTmpl": "A=1", "DestPath": "local/x", "ChangeMode": "wrong"}]}},
    {
        "task": {
            "Templates": [
                {
                    "EmbeddedTmpl": "A=1",
                    "DestPath": "local/x",
                    "ChangeMode": "signal",
                    "ChangeSignal": "SIGHUP",
                    "Envvars": True,
                }
            ]
        }
    },
    {"group": {"Disconnect": {"LostAfter": SECOND, "StopOnClientAfter": SECOND}}},
    {"group": {"Disconnect": {"StopOnClientAfter": -1}}},
    {"group": {"RestartPolicy": {"Attempts": 2, "Interval": SECOND, "Delay": SECOND, "Mode": "fail"}}},
    {"group": {"RestartPolicy": {"Attempts": 0, "Interval": 60 * SECOND, "Delay": SECOND, "Mode": "delay"}}},
    {"group": {"RestartPolicy": {"Attempts": 1, "Interval": 60 * SECOND, "Delay": SECOND, "Mode": "other"}}},
    {"group": {"ReschedulePolicy": {"Unlimited": True, "Delay": SECOND}}},
    {"group": {"ReschedulePolicy": {"Unlimited": True, "Attempts": 3, "Interval": 3600 * SECOND}}},
    {"group": {"ReschedulePolicy": {"Unlimited": True, "DelayFunction": "odd"}}},
    {"group": {"Update": {"MaxParallel": 1, "MinHealthyTime": 400 * SECOND}}},
    {"group": {"Update": {"MaxParallel": 1, "ProgressDeadline": 20 * SECOND}}},
    {"group": {"Update": {"MaxParallel": -1}}},
    {"group": {"EphemeralDisk": {"SizeMB": 1}}},
    {"group": {"Services": [{"Name": "bad_name!", "PortLabel": "http"}]}},
    {"group": {"Services": [{"Name": "web", "PortLabel": "http", "Provider": "other"}]}},
    {"group": {"Services": [{"Name": "web", "PortLabel": "http", "Checks": [{"Type": "http"}]}]}},
    {
        "group": {
            "Services": [
                {
                    "Name": "web",
                    "PortLabel": "http",
                    "Checks": [{"Type": "odd", "Interval": SECOND, "Timeout": SECOND}],
                }
            ]
        }
    },
    {
        "group": {
            "Services": [
                {
                    "Name": "web",
                    "PortLabel": "http",
                    "Checks": [{"Type": "tcp", "Interval": 1, "Timeout": SECOND}],
                }
            ]
        }
    },
    {"group": {"Networks": [{"DynamicPorts": [{"Label": "a"}, {"Label": "a"}]}]}},
    {"job": {"Constraints": [{"LTarget": "${meta.x}", "Operand": "odd", "RTarget": "1"}]}},
    {"job": {"UI": {"Description": "x" * 1001}}},
    {"job": {"Priority": 1000}},
]


def bad_job(cluster: Cluster, changes: dict[str, Any]) -> dict[str, Any]:
    return cluster.job("never-registered", **changes)


def test_what_validation_refuses(cluster: Cluster, snapshot_texts: dict[str, str]) -> None:
    for changes in BAD_JOBS:
        reply = cluster.http.put("/v1/jobs", json={"Job": bad_job(cluster, changes)})
        assert reply.status_code == 500, f"{changes} was accepted"
        assert reply.text == snapshot_texts[repr(changes)], changes


def test_a_job_in_an_unknown_namespace_is_refused(cluster: Cluster) -> None:
    job = cluster.job(cluster.name(), job={"Namespace": "nowhere"})
    reply = cluster.http.put("/v1/jobs", json={"Job": job})
    assert (reply.status_code, reply.text.strip()) == (
        500,
        f'1 error occurred:\n\t* job "{job["ID"]}" is in nonexistent namespace "nowhere"',
    )


def test_the_query_names_the_namespace_before_the_job_does(cluster: Cluster) -> None:
    job = cluster.job(cluster.name(), job={"Namespace": "nowhere"})
    assert cluster.http.put("/v1/jobs?namespace=default", json={"Job": job}).status_code == 200
    assert cluster.get(f"/v1/job/{job['ID']}")["Namespace"] == "default"


def test_enforce_index(cluster: Cluster) -> None:
    job = cluster.job(cluster.name())

    def attempt(index: int) -> tuple[int, str]:
        reply = cluster.http.put("/v1/jobs", json={"Job": job, "EnforceIndex": True, "JobModifyIndex": index})
        return reply.status_code, reply.text if reply.status_code != 200 else ""

    assert attempt(7) == (500, "Enforcing job modify index 7: job does not exist")
    assert attempt(0) == (200, "")
    index = cluster.get(f"/v1/job/{job['ID']}")["JobModifyIndex"]
    assert attempt(0) == (500, "Enforcing job modify index 0: job already exists")
    assert attempt(3) == (
        500,
        f"Enforcing job modify index 3: job exists with conflicting job modify index: {index}",
    )
    assert attempt(index) == (200, "")


def test_an_unchanged_register_makes_an_evaluation_and_no_version(cluster: Cluster) -> None:
    job = cluster.job(cluster.name())
    cluster.register(job)
    alloc = cluster.running(job["ID"])
    before = cluster.get(f"/v1/job/{job['ID']}")
    again = cluster.register(job)
    assert again["EvalCreateIndex"] == again["Index"] > before["JobModifyIndex"]
    assert cluster.evaluation(again["EvalID"])["Status"] == "complete"
    after = cluster.get(f"/v1/job/{job['ID']}")
    assert (after["Version"], after["JobModifyIndex"]) == (0, before["JobModifyIndex"])
    assert [a["ID"] for a in cluster.allocs(job["ID"])] == [alloc["ID"]]


def test_versions_and_submissions(cluster: Cluster) -> None:
    job_id = cluster.name()
    source = {"Source": "job x {}", "Format": "hcl2", "Variables": "a=1"}
    first = cluster.register(cluster.job(job_id), Submission=source)
    cluster.register(cluster.job(job_id, job={"Priority": 60}))
    versions = cluster.get(f"/v1/job/{job_id}/versions")
    assert [(job["Version"], job["Priority"]) for job in versions["Versions"]] == [(1, 60), (0, 50)]
    assert versions["Diffs"] is None
    submission = cluster.get(f"/v1/job/{job_id}/submission", version="0")
    inherited = cluster.get(f"/v1/job/{job_id}/submission", version="1")
    assert (inherited["Source"], inherited["Version"]) == ("job x {}", 1)
    assert submission == {
        "Source": "job x {}",
        "Format": "hcl2",
        "Variables": "a=1",
        "VariableFlags": None,
        "Namespace": "default",
        "JobID": job_id,
        "Version": 0,
        "JobModifyIndex": first["JobModifyIndex"],
    }
    for params, status, text in (
        ({}, 400, "Unable to parse job submission version parameter"),
        ({"version": "7"}, 404, "job source not found"),
    ):
        reply = cluster.http.get(f"/v1/job/{job_id}/submission", params=params)
        assert (reply.status_code, reply.text) == (status, text)


def test_preserve_counts(cluster: Cluster) -> None:
    job_id = cluster.name()
    cluster.register(cluster.job(job_id, group={"Count": 2}))
    cluster.register(cluster.job(job_id, job={"Priority": 60}), PreserveCounts=True)
    assert cluster.get(f"/v1/job/{job_id}")["TaskGroups"][0]["Count"] == 2


def test_stopping_a_job(cluster: Cluster) -> None:
    job = cluster.job(cluster.name())
    cluster.register(job)
    alloc = cluster.running(job["ID"])
    reply = cluster.http.delete(f"/v1/job/{job['ID']}").json()
    assert reply["EvalID"]
    assert reply["JobModifyIndex"] == reply["EvalCreateIndex"] == reply["Index"]
    cluster.until(lambda: cluster.get(f"/v1/job/{job['ID']}")["Status"] == "dead")
    cluster.until(lambda: cluster.alloc(alloc["ID"])["ClientStatus"] == "complete")
    stopped = cluster.get(f"/v1/job/{job['ID']}")
    assert (stopped["Stop"], stopped["Version"]) == (True, 1)
    [stub] = cluster.allocs(job["ID"])
    assert (stub["DesiredStatus"], stub["DesiredDescription"]) == (
        "stop",
        "alloc not needed due to job update",
    )
    assert stub["ClientDescription"] == "All tasks have completed"
    evaluation = cluster.get(f"/v1/evaluation/{reply['EvalID']}")
    assert (evaluation["TriggeredBy"], evaluation["Status"]) == ("job-deregister", "complete")
    assert evaluation["QueuedAllocations"] == {"app": 0}


def test_purging_a_job_forgets_its_allocations_at_once(cluster: Cluster) -> None:
    """Unlike Nomad 1.0, where they stayed readable until garbage collection."""
    job = cluster.job(cluster.name(), "trap '' INT; sleep 600 & wait; sleep 600")
    cluster.register(job)
    alloc = cluster.running(job["ID"])
    cluster.http.delete(f"/v1/job/{job['ID']}", params={"purge": "true"})
    assert cluster.http.get(f"/v1/job/{job['ID']}").status_code == 404
    assert cluster.http.get(f"/v1/allocation/{alloc['ID']}").status_code == 404
    assert cluster.allocs(job["ID"]) == []
    triggers = {e["TriggeredBy"] for e in cluster.get(f"/v1/job/{job['ID']}/evaluations")}
    assert triggers == {"job-register", "job-deregister"}


def test_a_purged_job_can_be_registered_again(cluster: Cluster) -> None:
    job = cluster.job(cluster.name())
    first = cluster.register(job)
    cluster.running(job["ID"])
    cluster.stop_and_wait(job["ID"])
    cluster.http.delete(f"/v1/job/{job['ID']}", params={"purge": "true"})
    cluster.register(job)
    again = cluster.get(f"/v1/job/{job['ID']}")
    assert (again["Version"], again["Stop"]) == (0, False)
    assert again["CreateIndex"] > first["JobModifyIndex"]
    cluster.running(job["ID"])
    assert len(cluster.get(f"/v1/job/{job['ID']}/allocations")) == 1


def test_a_stopped_job_can_be_started_again(cluster: Cluster) -> None:
    job = cluster.job(cluster.name())
    cluster.register(job)
    old = cluster.running(job["ID"])
    cluster.stop_and_wait(job["ID"])
    cluster.register(job)
    new = cluster.running(job["ID"], after=old["CreateIndex"])
    assert not cluster.alloc(new["ID"]).get("PreviousAllocation")
    assert cluster.get(f"/v1/job/{job['ID']}")["Version"] == 2


def test_what_is_said_of_a_job_that_does_not_exist(cluster: Cluster) -> None:
    path = "/v1/job/no-such-job"
    for suffix, text in (
        ("", "job not found"),
        ("/summary", "job not found"),
        ("/scale", "job not found"),
        ("/versions", "job versions not found"),
    ):
        reply = cluster.http.get(path + suffix)
        assert (reply.status_code, reply.text) == (404, text)
        assert int(reply.headers["X-Nomad-Index"]) >= 0
    for suffix in ("/allocations", "/evaluations", "/deployments"):
        assert cluster.get(path + suffix) == []
    assert cluster.http.get(path + "/deployment").text == "null"
    reply = cluster.http.put(path + "/evaluate", json={"JobID": "no-such-job"})
    assert (reply.status_code, reply.text) == (500, "job not found")
    gone = cluster.http.delete(path)
    assert (gone.status_code, gone.json()["EvalID"]) == (200, "")


def test_jobs_without_deployments_when_max_parallel_is_zero(cluster: Cluster) -> None:
    job = cluster.job(cluster.name())
    cluster.register(job)
    alloc = cluster.running(job["ID"])
    assert cluster.get(f"/v1/job/{job['ID']}/deployments") == []
    assert cluster.http.get(f"/v1/job/{job['ID']}/deployment").text == "null"
    assert "DeploymentID" not in cluster.alloc(alloc["ID"])


def test_the_summary_counts_allocations(cluster: Cluster) -> None:
    job = cluster.job(cluster.name())
    cluster.register(job)
    cluster.running(job["ID"])
    zero = dict.fromkeys(("Queued", "Complete", "Failed", "Running", "Starting", "Lost", "Unknown"), 0)
    summary = cluster.get(f"/v1/job/{job['ID']}/summary")
    assert summary["Summary"] == {"app": {**zero, "Running": 1}}
    assert summary["Children"] == {"Pending": 0, "Running": 0, "Dead": 0}
    cluster.stop_and_wait(job["ID"])
    assert cluster.get(f"/v1/job/{job['ID']}/summary")["Summary"] == {"app": {**zero, "Complete": 1}}


def test_validating_a_job(cluster: Cluster) -> None:
    good = cluster.http.put("/v1/validate/job", json={"Job": cluster.job("x")}).json()
    assert good == {"DriverConfigValidated": True, "ValidationErrors": None, "Error": "", "Warnings": ""}
    bad = cluster.http.put("/v1/validate/job", json={"Job": cluster.job("x", task={"Driver": ""})}).json()
    assert len(bad["ValidationErrors"]) == 1
    assert "Missing task driver" in bad["Error"]


def test_the_list_of_jobs(cluster: Cluster) -> None:
    prefix = cluster.name("list")
    names = [f"{prefix}-{letter}" for letter in "abc"]
    cluster._jobs += names
    for name in names:
        cluster.register(cluster.job(name, job={"Meta": {"user": name[-1]}}))

    def listed(**params: str) -> list[str]:
        return [job["ID"] for job in cluster.get("/v1/jobs", prefix=prefix, **params)]

    assert listed() == names
    assert listed(namespace="*") == names
    assert listed(namespace="elsewhere") == []
    assert listed(reverse="true") == names[::-1]
    assert listed(filter=f'ID == "{names[1]}"') == [names[1]]
    assert listed(filter='Meta.user == "c"') == [names[2]]
    assert listed(filter='Meta.user != "c" and Type == "service"') == names[:2]
    assert listed(filter='ID matches "-b$"') == [names[1]]
    first = cluster.http.get("/v1/jobs", params={"prefix": prefix, "per_page": 2})
    assert [job["ID"] for job in first.json()] == names[:2]
    token = first.headers["X-Nomad-NextToken"]
    second = cluster.http.get("/v1/jobs", params={"prefix": prefix, "per_page": 2, "next_token": token})
    assert [job["ID"] for job in second.json()] == names[2:]
    assert "X-Nomad-NextToken" not in second.headers
    [stub] = cluster.get("/v1/jobs", prefix=names[0])
    assert stub["Meta"] is None
    assert stub["JobSummary"]["Summary"].keys() == {"app"}
    assert cluster.get("/v1/jobs", prefix=names[0], meta="true")[0]["Meta"] == {"user": "a"}
    assert cluster.http.get("/v1/jobs", params={"filter": "xx "}).status_code == 400
    assert cluster.http.get("/v1/jobs", params={"per_page": "x"}).status_code == 400


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_wrong_methods(cluster: Cluster, method: str) -> None:
    reply = cluster.http.request(method, "/v1/jobs")
    assert (reply.status_code, reply.text) == (405, "Invalid method")
    assert cluster.http.put("/v1/job/x/allocations").status_code == 405


def test_unknown_paths(cluster: Cluster) -> None:
    reply = cluster.http.get("/v1/no-such-thing")
    assert (reply.status_code, reply.text) == (404, "")
