//! The contract of stores: the law as properties of the table, and the table as the measure of each store.
//!
//! | file | what it is |
//! |---|---|
//! | `law` | properties of random histories, judged by `shadow`, `rights`, `model` and `crowd` |
//! | `differential` | each store beside the table: same acts, same answers |
//! | `crash` | the store in LevelDB, killed after each step |
//! | `succession` | the store on Redis, with one daemon after another |
//! | `cases` | promises, each tried on each store; `house` has their words |
//! | `world`, `search` | random histories, and the shortest that breaks a claim |
//!
//! A new store is a [`Ground`](house::Ground), and one line at the end of this file.

mod cases;
mod crash;
mod crowd;
mod differential;
mod grounds;
mod house;
mod law;
mod model;
mod rights;
mod search;
#[path = "../servers/mod.rs"]
mod servers;
mod shadow;
mod succession;
mod world;

/// Makes a test of each case named.
macro_rules! try_cases {
    ($ground:ty; $module:ident: $($case:ident)*) => {
        $(
            #[test]
            fn $case() {
                crate::cases::$module::$case(&mut crate::house::House::<$ground>::new());
            }
        )*
    };
}

/// Puts a store under contract: whether it keeps things, and in how many random histories it is compared.
macro_rules! contract {
    ($store:ident: InMemory on $ground:ty, $histories:literal histories) => {
        contract!(@ $store, $ground, InMemory, $histories,);
    };
    ($store:ident: Durably on $ground:ty, $histories:literal histories) => {
        contract!(@ $store, $ground, Durably, $histories, try_cases! {
            $ground; kept:
                everything_is_there_when_it_is_opened_again
                tokens_rise_over_an_opening
                the_time_in_which_it_is_closed_does_not_count
                losses_are_remembered_over_an_opening
                a_file_without_names_lives_on_while_its_mount_does
        } try_cases! {
            $ground; again:
                a_request_asked_again_by_a_successor_gets_its_first_outcome
                a_request_that_was_not_carried_out_is_carried_out_once
                each_step_of_a_request_is_remembered
                a_request_that_was_answered_is_forgotten_and_its_seat_used_again
                requests_of_another_mount_are_others
                a_lock_asked_for_again_is_had_once
                what_is_open_is_what_the_handles_say
        } try_cases! {
            $ground; queues:
                a_mount_that_is_taken_over_has_what_it_had
                who_was_told_before_the_store_was_opened_again_is_told_once_more
                nothing_is_left_of_mounts_that_nobody_takes_over
                an_advisory_file_has_its_ttl_when_the_store_is_opened_again
        });
    };
    (@ $store:ident, $ground:ty, $kept:ident, $histories:literal, $($more:tt)*) => {
        mod $store {
            #[test]
            fn every_history_goes_as_in_the_table() {
                crate::differential::store_is_the_table::<$ground>($histories, crate::differential::Kept::$kept);
            }

            #[test]
            fn the_time_is_that_of_its_clock() {
                crate::differential::store_asks_its_clock::<$ground>();
            }

            try_cases! {
                $ground; calls:
                    what_exists_is_not_acquired_again
                    a_refused_acquire_begins_no_session
                    an_open_that_may_create_acquires_what_is_free
                    nothing_is_made_where_no_directory_is
                    nothing_is_made_in_a_directory_that_was_removed
                    what_is_made_is_its_makers
                    a_set_group_id_directory_hands_its_group_down
                    a_new_lock_of_an_old_name_is_another
                    a_note_is_what_was_written
                    a_note_has_a_longest_length
                    only_files_have_notes
                    times_are_what_was_set_and_renewing_moves_none
                    a_directory_notes_when_its_entries_come_and_go
                    an_owner_who_was_changed_is_the_owner
                    a_file_without_names_lives_while_it_is_open
                    a_session_without_locks_may_have_files_open
                    what_expires_is_gone_for_those_who_have_it_open
            }

            try_cases! {
                $ground; names:
                    a_link_is_one_more_name_of_the_same
                    unlinking_one_of_two_names_releases_that_name
                    a_link_of_what_another_holds_is_refused
                    a_directory_has_one_name
                    a_lock_has_so_many_names_and_no_more
                    a_rename_moves_a_lock_and_raises_its_token
                    a_rename_over_a_lock_releases_it
                    a_rename_over_anothers_lock_is_refused
                    a_rename_that_must_not_replace_does_not
                    an_exchange_gives_both_new_tokens
                    an_exchange_needs_both
                    a_refused_exchange_leaves_both
                    files_and_directories_do_not_replace_each_other
                    a_directory_with_entries_is_neither_moved_nor_replaced
                    a_directory_is_not_moved_into_itself
                    a_rename_between_names_of_one_lock_does_nothing
                    a_directory_with_entries_is_not_removed
                    unlink_is_for_files_and_rmdir_for_directories
                    a_directory_counts_its_subdirectories
                    a_listing_goes_on_where_it_stopped_while_names_come_and_go
                    only_directories_are_listed
                    tokens_of_a_name_only_rise
            }

            try_cases! {
                $ground; rights:
                    the_holder_may_change_its_lock
                    the_holder_may_remove_its_lock
                    the_holder_keeps_its_rights_when_its_job_was_taken_for_ended
                    the_same_login_may_change_when_the_job_has_ended
                    the_same_login_may_remove_when_the_job_has_ended
                    the_same_login_takes_over_what_it_changes
                    the_same_login_may_not_while_the_job_lives
                    the_same_user_may_not_change_while_the_holder_lives
                    the_same_user_may_not_remove_while_the_holder_lives
                    the_same_user_may_not_change_when_the_job_has_ended
                    the_same_user_may_remove_when_the_job_has_ended
                    another_user_may_not_change
                    another_user_may_not_remove
                    root_removes_another_users_lock_and_changes_it_not
                    a_named_session_never_ends_by_itself
                    a_session_that_nobody_sees_never_ends_by_itself
                    the_name_of_a_session_gives_no_rights_to_another_user
                    everybody_may_open_what_is_held
                    a_truncate_that_changes_nothing_is_an_open
                    a_truncate_that_changes_something_is_a_change
                    whoever_moves_the_lock_of_an_ended_job_holds_it
                    a_default_ttl_is_set_by_the_holder_only
                    a_directory_of_nobody_is_removed_by_its_owner_or_root
                    a_lock_is_broken_by_its_owner_who_names_its_token
                    root_breaks_any_lock
                    a_directory_with_entries_is_not_broken
            }

            try_cases! {
                $ground; time:
                    an_expired_lock_is_free_for_the_next
                    an_expired_lock_is_dead_for_every_call
                    what_the_holder_does_renews_all_it_holds
                    what_others_do_renews_nothing
                    a_short_lock_is_renewed_by_use
                    what_is_dead_stays_dead
                    a_ttl_counts_from_when_it_is_set
                    a_lock_without_ttl_never_expires
                    a_ttl_is_inherited_from_the_nearest_that_sets_one
                    a_lock_gets_the_ttl_of_its_session
                    a_directory_never_expires
                    a_directory_that_is_a_lock_by_its_name_expires
                    a_directory_that_was_given_a_ttl_expires
                    a_directory_does_not_expire_while_something_stands_in_it
                    a_directory_expires_with_what_has_expired_in_it
                    dead_entries_do_not_count
                    a_sweep_removes_what_is_dead_and_no_more_than_asked
                    a_session_that_holds_nothing_is_over_after_its_ttl
                    a_late_unlink_can_not_release_anothers_lock
                    a_late_unlink_can_not_release_what_an_ended_job_holds_by_now
                    a_late_unlink_of_what_is_free_finds_nothing
                    a_loss_is_remembered_for_a_day
                    a_loss_is_forgotten_when_the_name_is_held_again
                    who_was_broken_is_told
                    losses_beyond_a_thousand_push_out_the_oldest
            }

            try_cases! {
                $ground; sessions:
                    a_session_begins_once
                    a_session_begins_with_its_first_lock
                    a_session_named_by_a_path_must_exist
                    the_end_of_a_session_releases_all_in_one_step
                    the_end_of_a_session_leaves_directories_with_others_locks
                    a_session_is_ended_by_its_owner_root_or_the_daemon
                    a_touch_of_a_session_is_for_its_owner
                    a_merge_hands_over_all_with_new_tokens
                    a_session_that_moves_to_a_new_name_keeps_its_number_and_its_owner
                    a_merge_is_for_the_owner_of_both
                    a_job_that_ended_gives_its_locks_to_a_living_session
                    a_transfer_hands_over_one_with_a_new_token
                    a_transfer_is_for_the_holder_to_a_session_of_its_own
                    a_transfer_to_the_holder_changes_nothing
                    a_rename_from_one_session_to_another_hands_over
                    an_heir_may_hold_the_name_that_is_replaced
                    a_job_that_has_ended_goes_with_its_last_lock
                    a_job_that_holds_nothing_goes_when_it_ends
                    a_job_that_acquires_has_not_ended
                    a_session_that_only_remembers_its_losses_can_begin_anew
                    a_session_shows_what_it_holds_and_the_way_there
                    sessions_are_listed_in_the_order_in_which_they_began
                    it_is_counted_what_is_there_and_what_happened
                    events_are_numbered_from_one
            }

            try_cases! {
                $ground; advisory:
                    an_exclusive_lock_excludes_and_shared_ones_do_not
                    one_key_on_two_mounts_is_two_owners
                    flock_and_fcntl_do_not_see_each_other
                    a_flock_that_is_converted_in_vain_is_lost
                    an_fcntl_lock_that_is_converted_in_vain_stays
                    a_flock_that_is_lost_is_no_use_of_the_file
                    what_is_downgraded_is_shared_from_then_on
                    a_lock_splits_where_a_part_of_it_is_let_go
                    locks_that_touch_are_one
                    a_view_tells_who_has_a_file_locked
                    only_files_are_locked
                    nobody_holds_what_was_locked
                    anybody_may_change_and_remove_what_was_locked
                    what_was_locked_is_handed_to_nobody
                    what_was_locked_expires_after_its_last_user
                    what_is_waited_for_does_not_expire
                    what_was_locked_is_broken_like_a_lock
                    what_has_no_name_lives_while_it_is_locked_or_waited_for
                    each_mount_closes_what_it_opened
                    a_mount_locks_nothing_unattended
                    all_that_a_lapsed_mount_had_is_gone
                    all_that_a_mount_had_is_gone_when_it_leaves
                    a_lapsed_mount_used_a_file_until_its_lease_ran_out
                    the_end_of_a_short_lease_counts
                    a_lapsed_mount_waited_until_its_lease_ran_out
                    a_lapsed_mount_hides_no_later_use
                    what_has_no_name_is_nobodys_once_it_was_locked
                    a_ttl_of_never_is_for_locked_files_too
                    two_locks_exclude_each_other_if_either_is_exclusive
            }

            try_cases! {
                $ground; queues:
                    who_came_first_goes_first
                    who_asks_again_keeps_its_place
                    a_try_does_not_overtake_who_waits
                    a_waiting_writer_stops_new_readers
                    readers_are_let_through_up_to_the_next_writer
                    ranges_that_do_not_touch_do_not_wait_for_each_other
                    a_conversion_waits_for_nobody_who_waits
                    a_conversion_is_no_deadlock_with_who_waits_for_it
                    a_conversion_that_can_go_overtakes
                    a_flock_that_waits_for_its_conversion_is_lost_meanwhile
                    what_is_reserved_is_so_for_two_seconds
                    all_who_wait_on_a_mute_mount_are_passed_over
                    a_mount_that_is_heard_of_again_has_its_places
                    a_mount_is_heard_of_by_any_lock_of_its
                    who_is_told_and_can_not_go_keeps_its_place
                    who_waits_is_told_once
                    who_withdraws_lets_the_next_through
                    who_was_told_and_withdraws_lets_the_next_through
                    who_waited_on_a_mount_that_is_gone_is_in_nobodys_way
                    who_opens_what_is_free_holds_it
                    who_waits_for_a_name_holds_it_when_it_is_free
                    a_name_is_free_however_its_lock_ends
                    a_name_is_free_when_its_lock_is_found_expired
                    an_exchange_frees_no_name
                    nobody_makes_a_name_that_others_wait_for
                    a_rename_over_what_others_wait_for_is_no_acquire
                    who_waits_in_a_directory_that_is_removed_waits_no_more
                    who_waits_in_a_directory_waits_there_wherever_it_is
                    whatever_stands_at_a_name_is_waited_for
                    a_name_of_nowhere_is_not_waited_for
                    a_queue_tells_who_waits_for_what
                    two_who_would_wait_for_each_other_are_a_deadlock
                    who_is_in_company_closes_no_cycle
                    three_who_would_wait_in_a_ring_are_a_deadlock
                    who_waits_for_itself_is_a_deadlock
                    a_wait_for_a_name_closes_a_cycle_with_locks
                    who_waits_before_one_is_waited_for
                    a_mount_that_is_gone_closes_no_cycle
                    a_mute_mount_closes_no_cycle
                    what_a_lapsed_mount_has_is_in_nobodys_way
                    calls_of_one_owner_do_not_wait_for_each_other
            }

            $($more)*
        }
    };
}

contract!(memory: InMemory on crate::grounds::Memory, 200 histories);
contract!(level: Durably on crate::grounds::Level, 200 histories);
contract!(redis: InMemory on crate::grounds::Redis, 700 histories);

mod redis_taken_over {
    try_cases! {
        crate::grounds::Redis; again:
            a_request_asked_again_by_a_successor_gets_its_first_outcome
            a_request_that_was_not_carried_out_is_carried_out_once
            each_step_of_a_request_is_remembered
            a_request_that_was_answered_is_forgotten_and_its_seat_used_again
            requests_of_another_mount_are_others
            a_lock_asked_for_again_is_had_once
            what_is_open_is_what_the_handles_say
    }
    try_cases! {
        crate::grounds::Redis; queues:
            a_mount_that_is_taken_over_has_what_it_had
            nothing_is_left_of_mounts_that_nobody_takes_over
    }
}

// Two laws in two languages: more histories than of the others, and side by side.
#[test]
fn seven_hundred_more_histories_go_on_redis_as_in_the_table() {
    differential::store_is_the_table_from::<grounds::Redis>(701, 700, differential::Kept::InMemory);
}

#[test]
fn still_seven_hundred_more_histories_go_on_redis_as_in_the_table() {
    differential::store_is_the_table_from::<grounds::Redis>(1_401, 700, differential::Kept::InMemory);
}
