//! The room as a whole, against oracles. Each file is one sentence about it.

mod a_guard_attaches_before_it_lets_go;
mod both_ends_are_right_in_every_folio;
mod bytes_are_what_was_written_whatever_runs_beside;
mod dropped_futures_leave_nothing_behind;
mod every_get_has_its_put;
mod new_bytes_read_as_zero;
mod reads_hit_miss_and_look_ahead;
mod reclaim_leaves_what_is_about_to_be_marked;
mod short_writes_leave_others_alone;
mod stale_mappings_are_made_again;
mod the_contract_shows_no_folio;
mod transactions_get_folios_at_rest;
mod writeback_beside_a_size_change;
mod writeback_keeps_data_order_and_promises;
mod writers_wait_for_room_and_end;
mod zeroing_touches_only_what_is_stored;
