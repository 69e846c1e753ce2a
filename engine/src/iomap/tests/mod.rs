//! The room as a whole, against oracles. Each file is one sentence about it.

mod a_guard_attaches_before_it_lets_go;
mod bytes_are_what_was_written_whatever_runs_beside;
mod data_and_holes_are_told_with_the_cache;
mod direct_requests_agree_with_the_cache;
mod dropped_futures_leave_nothing_behind;
mod new_bytes_read_as_zero;
mod reads_hit_miss_and_look_ahead;
mod small_objects_are_kept_by_the_provider;
mod stale_mappings_are_made_again;
mod transactions_get_folios_at_rest;
mod writeback_keeps_data_order_and_promises;
mod zeroing_touches_only_what_is_stored;
