//! Pending retries: in order, taken once, cancelled for good, and small.

use std::collections::BTreeMap;

use proptest::prelude::{prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::Strategy;
use tollway_core::retry::{Scheduler, Ticket};

fn all_due<T>(scheduler: &mut Scheduler<T>, now: u64) -> Vec<T> {
    let mut taken = Vec::new();
    scheduler.pop_due(now, usize::MAX, &mut taken);
    taken
}

#[test]
fn what_is_due_comes_by_time_and_then_by_arrival() {
    let mut scheduler = Scheduler::new();
    for (due, name) in [(5, "b"), (3, "a"), (5, "c"), (9, "d")] {
        scheduler.push(due, name);
    }
    assert_eq!(scheduler.next_due(), Some(3));
    assert_eq!(all_due(&mut scheduler, 2), Vec::<&str>::new());
    assert_eq!(all_due(&mut scheduler, 5), ["a", "b", "c"]);
    assert_eq!((scheduler.next_due(), scheduler.len()), (Some(9), 1));
    assert_eq!(all_due(&mut scheduler, u64::MAX), ["d"]);
    assert_eq!((scheduler.next_due(), scheduler.is_empty()), (None, true));
}

#[test]
fn no_more_are_taken_than_asked_for() {
    let mut scheduler = Scheduler::new();
    for due in 0..10 {
        scheduler.push(due, due);
    }
    let mut taken = vec![77];
    scheduler.pop_due(100, 3, &mut taken);
    assert_eq!(taken, [77, 0, 1, 2]);
    assert_eq!(scheduler.next_due(), Some(3));
}

#[test]
fn a_ticket_names_its_value_and_no_later_one_in_its_place() {
    let mut scheduler = Scheduler::new();
    let first = scheduler.push(1, "first");
    assert_eq!(scheduler.cancel(first), Some("first"));
    let second = scheduler.push(2, "second");
    assert_eq!(scheduler.cancel(first), None);
    assert_eq!(all_due(&mut scheduler, 1), Vec::<&str>::new());
    assert_eq!(all_due(&mut scheduler, 2), ["second"]);
    assert_eq!(scheduler.cancel(second), None);
    assert_eq!(scheduler.cancel(u64::MAX), None);
}

#[test]
fn a_hundred_thousand_take_at_most_a_hundred_bytes_each() {
    // A pointer each; a count just past a doubling is the worst case.
    for pending in [100_000_u64, (1 << 17) + 1] {
        let mut scheduler = Scheduler::new();
        for due in 0..pending {
            scheduler.push(due.wrapping_mul(0x9E37_79B9_7F4A_7C15), Box::new(due));
        }
        let bytes = scheduler.memory() / usize::try_from(pending).unwrap();
        assert!(
            (40..=100).contains(&bytes),
            "{bytes} bytes each of {pending}"
        );
    }
}

#[test]
fn cancelled_ones_do_not_pile_up() {
    let mut scheduler = Scheduler::new();
    scheduler.push(u64::MAX, Box::new(0));
    for due in 0..1_000_000 {
        let ticket = scheduler.push(due, Box::new(due));
        scheduler.cancel(ticket);
    }
    assert_eq!(scheduler.len(), 1);
    assert!(scheduler.memory() < 10_000, "{}", scheduler.memory());
}

#[derive(Debug, Clone)]
enum Step {
    Push(u64),
    Cancel(usize),
    Pop(u64, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (0_u64..50).prop_map(Step::Push),
        3 => (0_usize..200).prop_map(Step::Cancel),
        1 => (0_u64..50, 0_usize..8).prop_map(|(now, most)| Step::Pop(now, most)),
    ];
    prop::collection::vec(step, 0..400)
}

proptest! {
    #[test]
    fn it_does_what_a_sorted_map_does(steps in steps()) {
        let mut scheduler = Scheduler::new();
        // By (due, number); tickets by number.
        let mut expected: BTreeMap<(u64, usize), Ticket> = BTreeMap::new();
        let mut pushed: Vec<(u64, Ticket)> = Vec::new();
        for step in steps {
            match step {
                Step::Push(due) => {
                    let number = pushed.len();
                    let ticket = scheduler.push(due, number);
                    prop_assert!(!expected.values().any(|other| *other == ticket));
                    pushed.push((due, ticket));
                    expected.insert((due, number), ticket);
                }
                Step::Cancel(number) => if let Some((due, ticket)) = pushed.get(number) {
                    let pending = expected.remove(&(*due, number));
                    prop_assert_eq!(scheduler.cancel(*ticket), pending.map(|_| number));
                },
                Step::Pop(now, most) => {
                    let mut taken = Vec::new();
                    scheduler.pop_due(now, most, &mut taken);
                    let due: Vec<_> = expected
                        .range(..(now + 1, 0))
                        .map(|(key, _)| *key)
                        .take(most)
                        .collect();
                    for key in &due {
                        expected.remove(key);
                    }
                    let due: Vec<_> = due.into_iter().map(|(_, number)| number).collect();
                    prop_assert_eq!(taken, due);
                }
            }
            prop_assert_eq!(scheduler.len(), expected.len());
            prop_assert_eq!(scheduler.next_due(), expected.keys().next().map(|key| key.0));
            let mut held: Vec<_> = scheduler.values().copied().collect();
            held.sort_unstable();
            let mut numbers: Vec<_> = expected.keys().map(|key| key.1).collect();
            numbers.sort_unstable();
            prop_assert_eq!(held, numbers);
        }
    }
}
