"""Variables: check-and-set, refusals, lists."""

from __future__ import annotations

from tests.contract.nomad.cluster import Cluster


def test_write_read_delete(cluster: Cluster) -> None:
    path = f"nomad/jobs/{cluster.name('var')}"
    written = cluster.put_variable(path, {"a": "1", "b": "2"})
    body = written.json()
    assert written.status_code == 200
    assert body.keys() == {
        *("Namespace", "Path", "Lock", "CreateIndex", "CreateTime", "ModifyIndex", "ModifyTime", "Items")
    }
    assert (body["Namespace"], body["Path"], body["Items"]) == ("default", path, {"a": "1", "b": "2"})
    assert str(body["ModifyIndex"]) == written.headers["X-Nomad-Index"]
    assert cluster.get(f"/v1/var/{path}") == body
    changed = cluster.put_variable(path, {"a": "3"}).json()
    assert (changed["CreateIndex"], changed["Items"]) == (body["CreateIndex"], {"a": "3"})
    assert changed["ModifyIndex"] > body["ModifyIndex"]
    assert cluster.http.delete(f"/v1/var/{path}").status_code == 204
    assert cluster.http.delete(f"/v1/var/{path}").status_code == 204
    reply = cluster.http.get(f"/v1/var/{path}")
    assert (reply.status_code, reply.text) == (404, "variable not found")


def test_check_and_set(cluster: Cluster) -> None:
    path = f"nomad/jobs/{cluster.name('var')}"
    first = cluster.put_variable(path, {"a": "1"}, cas="0").json()
    conflict = cluster.put_variable(path, {"a": "2"}, cas="0")
    assert conflict.status_code == 409
    assert conflict.json() == first
    second = cluster.put_variable(path, {"a": "2"}, cas=str(first["ModifyIndex"]))
    assert second.status_code == 200
    stale = cluster.http.delete(f"/v1/var/{path}", params={"cas": str(first["ModifyIndex"])})
    assert stale.status_code == 409
    current = str(second.json()["ModifyIndex"])
    assert cluster.http.delete(f"/v1/var/{path}", params={"cas": current}).status_code == 204


def test_refusals(cluster: Cluster) -> None:
    reserved = (
        'only paths at "nomad/jobs" or "nomad/job-templates" and below are valid paths under the top-level '
        '"nomad" directory'
    )
    for path, body, text in (
        ("ok", {"Items": {}}, "variable missing required Items object"),
        ("ok", {}, "variable missing required Items object"),
        ("nomad/other", {"Items": {"a": "1"}}, f"RPC Error:: 400,{reserved}"),
        ("bad path!", {"Items": {"a": "1"}}, 'RPC Error:: 400,invalid path "bad path!"'),
        ("x" * 129, {"Items": {"a": "1"}}, f'RPC Error:: 400,invalid path "{"x" * 129}"'),
        (
            "big",
            {"Items": {"a": "1" * 65536}},
            "RPC Error:: 400,variables are limited to 64KiB in total size",
        ),
        (
            "number",
            {"Items": {"a": 1}},
            "json: cannot unmarshal number into Go struct field VariableDecrypted.Items of type string",
        ),
        ("", {"Items": {"a": "1"}}, "missing variable path"),
    ):
        reply = cluster.http.put(f"/v1/var/{path}", json=body)
        assert (reply.status_code, reply.text) == (400, text)
    reply = cluster.http.put("/v1/var/ok?cas=x", json={"Items": {"a": "1"}})
    assert (reply.status_code, reply.text) == (
        400,
        'can not parse cas: strconv.ParseUint: parsing "x": invalid syntax',
    )


def test_sixty_four_kibibytes_fit(cluster: Cluster) -> None:
    path = f"nomad/jobs/{cluster.name('var')}"
    assert cluster.put_variable(path, {"k": "v" * (65536 - 1)}).status_code == 200


def test_lists(cluster: Cluster) -> None:
    base = f"nomad/jobs/{cluster.name('vars')}"
    for number in range(3):
        cluster.put_variable(f"{base}/{number}", {"a": "1"})
    listed = cluster.get("/v1/vars", prefix=base)
    assert [variable["Path"] for variable in listed] == [f"{base}/{number}" for number in range(3)]
    assert all("Items" not in variable for variable in listed)
    page = cluster.http.get("/v1/vars", params={"prefix": base, "per_page": "2"})
    assert len(page.json()) == 2
    token = page.headers["X-Nomad-NextToken"]
    rest = cluster.get("/v1/vars", prefix=base, per_page="2", next_token=token)
    assert [variable["Path"] for variable in rest] == [f"{base}/2"]
    assert cluster.get("/v1/vars", prefix=f"{base}/none") == []


def test_a_purge_leaves_the_variables_alone(cluster: Cluster) -> None:
    job = cluster.job(cluster.name())
    path = f"nomad/jobs/{job['ID']}"
    cluster.put_variable(path, {"a": "1"})
    cluster.register(job)
    cluster.running(job["ID"])
    cluster.http.delete(f"/v1/job/{job['ID']}", params={"purge": "true"})
    assert cluster.get(f"/v1/var/{path}")["Items"] == {"a": "1"}
