"""Which test shows which row of the contract's tables. Keys are the first cell of a row, as it stands there.

A test is named `file::function`, the file below tests/. Of several, the first shows the row as a whole.
"""

from __future__ import annotations

A = "integration/api"
MATRIX = f"{A}/test_access_matrix.py::test_each_route_with_each_kind_of_credentials"
REFUSALS = "contract/rest/test_messages.py::test_each_refusal_in_its_own_words"
STATUS = "contract/rest/test_status_table.py::test_each_situation_has_its_word"

MESSAGES: dict[str, tuple[str, ...]] = {
    "no token": (REFUSALS, MATRIX),
    "bad or expired token": (REFUSALS, MATRIX),
    "token without `sub`": (REFUSALS, MATRIX),
    "token of unknown or inactive user": (REFUSALS, MATRIX),
    "bad API key": (REFUSALS, MATRIX),
    "wrong login (a short password too)": (
        REFUSALS,
        f"{A}/test_accounts.py::test_a_wrong_login_is_always_the_same",
    ),
    "suspended account": (REFUSALS, f"{A}/test_accounts.py::test_suspended_and_inactive_accounts"),
    "e-mail taken": (REFUSALS, f"{A}/test_accounts.py::test_two_registrations_of_one_email_at_once"),
    "unknown plan": (REFUSALS,),
    "no refresh cookie / bad refresh token": (f"{A}/test_refresh.py::test_refusals",),
    "login throttled": (f"{A}/test_limits.py::test_login_after_five_failures",),
    "other limit / key limit": (
        f"{A}/test_limits.py::test_reads_and_writes_of_a_user_are_counted_apart",
        f"{A}/test_limits.py::test_a_key_has_a_limit_of_its_own",
    ),
    "chip unknown or not yours": (
        REFUSALS,
        f"{A}/test_chips.py::test_the_chip_of_another_user_is_unknown",
        f"{A}/test_chips.py::test_a_malformed_id_is_an_unknown_one",
    ),
    "alias already used by you (case-insensitive)": (
        REFUSALS,
        f"{A}/test_chips.py::test_aliases_and_the_limit_of_the_plan",
    ),
    "plan limit reached": (REFUSALS, f"{A}/test_chips.py::test_creates_at_once_never_pass_limit_or_alias"),
    "proxy quota used up, on create": ("contract/rest/test_messages.py::test_a_quota_that_is_used_up",),
    "plan without API access": (f"{A}/test_api_keys.py::test_a_plan_without_api_access",),
    "no free port anywhere": ("contract/rest/test_messages.py::test_no_free_port_is_a_chip_that_waits",),
    "Nomad, Consul, Redis or WAHA not reachable": (
        "contract/rest/test_messages.py::test_a_system_that_is_away_refuses_nothing",
        f"{A}/test_redis_away.py::test_every_route_answers_as_before",
    ),
    "store not reachable (any route); pairing code while WAHA is not reachable": (
        f"{A}/test_problems.py::test_a_frozen_store_is_said_within_two_seconds",
        f"{A}/test_problems.py::test_a_cut_off_store_is_said_and_found_again",
        f"{A}/test_pairing_code.py::test_a_dead_container_is_a_503_in_time",
    ),
}

STATUSES: dict[str, tuple[str, ...]] = {
    "never paired: no port, queued, STARTING, SCAN_QR_CODE, PASSKEY_*, FAILED, parked": (STATUS,),
    "paired: starting, restarting, moving, queued, within its deadline": (STATUS,),
    "WORKING": (STATUS, f"{A}/test_chips.py::test_a_paired_chip_is_connecting_from_the_press_on"),
    "wanted disconnected; or paired and FAILED/STOPPED after the ladder, unlinked, or CONNECTING past its deadline": (
        STATUS,
        "contract/rest/test_status_table.py::test_wanted_disconnected_counts_at_once_whatever_was_seen",
        "unit/domain/test_ladder.py::test_a_failed_chip_climbs_restart_restart_rewrite_and_ends_with_its_button",
    ),
    "ban seen": (STATUS,),
    "paused by an operator": (STATUS,),
    "only an operator can help (quarantine)": (STATUS,),
}

CHIPS: dict[str, tuple[str, ...]] = {
    "`GET /chips`": (
        f"{A}/test_chips.py::test_the_list_is_in_order_and_ones_own",
        f"{A}/test_caching.py::test_the_same_bytes_are_not_sent_twice",
    ),
    '`POST /chips {"alias"}`': (
        f"{A}/test_chips.py::test_a_new_chip",
        f"{A}/test_chips.py::test_bad_chips",
        f"{A}/test_create_wait.py::test_the_chip_is_stored_before_any_wait",
        f"{A}/test_create_wait.py::test_it_returns_as_soon_as_the_port_is_known",
        f"{A}/test_create_wait.py::test_it_returns_as_soon_as_a_reason_is_known",
        f"{A}/test_create_wait.py::test_nobody_has_to_wait",
    ),
    "`GET /chips/{id}`": (
        f"{A}/test_caching.py::test_every_change_that_is_shown_changes_the_tag",
        f"{A}/test_chips.py::test_a_malformed_id_is_an_unknown_one",
    ),
    "`DELETE /chips/{id}`": (
        f"{A}/test_chips.py::test_a_deleted_chip_is_gone_for_its_owner_at_once",
        "integration/daemon/test_one_chip.py::test_from_wish_to_qr_to_connected_to_gone",
    ),
    "`GET /chips/{id}/qr`": (
        f"{A}/test_qr.py::test_the_qr_that_the_container_shows",
        f"{A}/test_qr.py::test_a_poll_changes_nothing_in_the_store",
        f"{A}/test_qr.py::test_a_container_that_hangs_blocks_nobody",
        f"{A}/test_qr.py::test_a_poll_never_starts_a_chip_that_is_wanted_disconnected",
        "unit/domain/test_walks.py::test_qr_budget_is_spent_and_bought_again_by_a_press",
    ),
    '`POST /chips/{id}/pairing-code {"phone_number"}`': (
        f"{A}/test_pairing_code.py::test_a_code_that_pairs_the_phone",
    ),
    "`POST /chips/{id}/disconnect`": (
        f"{A}/test_chips.py::test_disconnect_says_so_in_every_state_until_the_next_wish",
    ),
    "`POST /chips/{id}/reconnect`": (
        f"{A}/test_chips.py::test_reconnect_changes_nothing_while_waha_is_at_work",
        f"{A}/test_chips.py::test_the_body_of_a_reconnect",
        "unit/domain/test_ladder.py::test_a_press_whose_ladder_ends_with_nobody_else_failing_gives_a_qr_in_the_same_modal",
        "unit/domain/test_ladder.py::test_fresh_logs_out_at_once_from_failed_and_from_stopped",
    ),
    "`GET /chips/{id}/events`": (f"{A}/test_events.py::test_what_happened_newest_first",),
    "`GET /chips/{id}/explain`": (f"{A}/test_explain.py::test_a_chip_that_waits_for_memory",),
    "`GET /chips/{id}/stream`": (
        f"{A}/test_stream.py::test_state_comes_at_once_and_changes_through_another_replica_within_a_second",
        f"{A}/test_stream.py::test_resuming_loses_and_repeats_nothing_under_concurrent_writers",
    ),
    "`WS /chips/ws/{id}/qr`": (
        f"{A}/test_qr_socket.py::test_it_pushes_every_change_and_repeats_itself",
        f"{A}/test_qr_socket.py::test_no_token_or_a_bad_one_is_told_and_closed",
        f"{A}/test_qr_socket.py::test_a_malformed_id",
        f"{A}/test_qr_socket.py::test_an_unknown_and_a_foreign_chip_look_the_same",
        f"{A}/test_qr_socket.py::test_pages_of_others_may_not_open_it",
    ),
    "`PUT`/`DELETE /chips/{id}/annotations/{key}`": (
        f"{A}/test_annotations.py::test_what_a_service_keeps_is_shown_until_it_is_removed",
        f"{A}/test_annotations.py::test_users_may_not",
    ),
    "`GET /chips/{id}/proxy`": (
        f"{A}/test_chip_proxy.py::test_a_chips_label_and_exit",
        f"{A}/test_proxy_usage.py::test_a_chip_without_a_label",
    ),
    "`GET /user/proxy/usage`": (
        f"{A}/test_proxy_usage.py::test_what_was_used_and_what_it_costs",
        f"{A}/test_proxy_usage.py::test_nothing_used",
    ),
}

CONTAINERS: dict[str, tuple[str, ...]] = {
    "`PUT /containers/{user_id}`": (
        f"{A}/test_containers_admin.py::test_a_container_is_made_once_and_kept_without_chips",
    ),
    "`GET /containers/{user_id}`": (f"{A}/test_service.py::test_a_container_as_its_operator_sees_it",),
    "`DELETE /containers/{user_id}`": (
        f"{A}/test_containers_admin.py::test_deleting_takes_all_chips_and_says_which",
    ),
    "`POST /containers/{user_id}/restart`": (f"{A}/test_look_ins.py::test_a_restart_is_accepted_as_a_wish",),
    "`GET /containers?phase&node&cursor`": (
        f"{A}/test_containers_admin.py::test_the_list_in_pages_skips_and_repeats_nobody",
        f"{A}/test_containers_admin.py::test_the_list_by_phase_and_node",
    ),
    "`POST /containers/cleanup?dry_run=true`": (
        f"{A}/test_containers_admin.py::test_cleanup_lists_by_default_and_approves_only_when_told",
    ),
    "`GET /containers/{user_id}/stats`": (f"{A}/test_look_ins.py::test_a_first_look_waits_for_its_sample",),
    "`GET /containers/{user_id}/logs?lines&follow`": (
        f"{A}/test_look_ins.py::test_the_newest_lines_of_the_log",
        f"{A}/test_look_ins.py::test_a_log_is_followed_line_by_line_from_where_one_was",
    ),
    "`GET /containers/{user_id}/access`": (f"{A}/test_service.py::test_access_gives_the_key_and_is_audited",),
}

# What the contract says below that table and in its sections without tables.
BESIDES: dict[str, tuple[str, ...]] = {
    "/me/container": (
        f"{A}/test_look_ins.py::test_one_s_own_container_without_its_host",
        f"{A}/test_look_ins.py::test_a_restart_is_accepted_as_a_wish",
    ),
    "GET /fleet": (f"{A}/test_fleet.py::test_the_fleet_in_figures",),
    "GET /fleet/events": (
        f"{A}/test_fleet.py::test_the_stream_begins_with_the_fleet_and_tells_of_whose_rows_changed",
    ),
    "GET /fleet/plan": (f"{A}/test_fleet.py::test_the_plan_of_new_users_in_pages",),
    "POST /fleet/pause, /fleet/resume": (f"{A}/test_fleet.py::test_pause_and_resume_are_written_down_once",),
    "/fleet/providers": (
        f"{A}/test_providers.py::test_a_provider_from_its_making_to_its_end",
        f"{A}/test_sub_users.py::test_a_password_comes_in_and_never_goes_out",
    ),
    "GET /fleet/proxy/usage": (f"{A}/test_proxy_usage.py::test_the_fleet_by_provider_and_user_in_pages",),
    "GET /chips/{id}/proxy/history, POST /chips/{id}/proxy/rotate": (
        f"{A}/test_chip_proxy.py::test_the_history_in_pages",
        f"{A}/test_chip_proxy.py::test_another_label_is_wished_once",
    ),
    "POST /auth/register": (f"{A}/test_accounts.py::test_a_new_account",),
    "POST /auth/login": (f"{A}/test_accounts.py::test_login",),
    "POST /auth/refresh": (f"{A}/test_refresh.py::test_a_refresh_gives_what_a_login_gives",),
    "POST /auth/logout": (f"{A}/test_refresh.py::test_logging_out",),
    "GET, PUT /users/me": (f"{A}/test_accounts.py::test_changing_ones_account",),
    "/api-keys": (f"{A}/test_api_keys.py::test_a_key_is_shown_once_and_stored_hashed",),
    "POST /webhooks/waha/{user_id}": (
        f"{A}/test_webhook_events.py::test_each_event_is_stored_once_with_what_a_hint_needs",
        f"{A}/test_webhooks.py::test_who_may_not_call",
        f"{A}/test_webhooks.py::test_a_webhook_may_be_larger_than_other_bodies_and_not_endless",
        f"{A}/test_webhooks.py::test_what_could_not_be_stored_is_sent_again",
    ),
    "GET /health, /health/live, /health/ready": (
        f"{A}/test_service.py::test_health",
        f"{A}/test_service.py::test_readiness_tells_of_each_dependency",
    ),
    "GET /metrics": (f"{A}/test_metrics.py::test_requests_are_counted_by_template_and_status",),
    "GET /schema and its page": (
        f"{A}/test_schema.py::test_schemathesis_finds_nothing",
        f"{A}/test_docs_page.py::test_every_route_and_answer_is_shown_and_nobody_else_is_asked",
    ),
    "the reverse proxy of section 8": (
        "contract/deploy/test_reverse_proxy.py::test_each_path_goes_to_its_side_as_it_came",
        "contract/deploy/test_reverse_proxy.py::test_every_route_of_ours_is_on_the_side_that_the_contract_names",
    ),
    "unknown paths, other methods": (
        f"{A}/test_access_matrix.py::test_unknown_paths_are_unknown_to_everybody",
        f"{A}/test_access_matrix.py::test_known_paths_with_another_method_are_405_for_everybody",
    ),
}

TABLES = {"messages": MESSAGES, "statuses": STATUSES, "chips": CHIPS, "containers": CONTAINERS}
