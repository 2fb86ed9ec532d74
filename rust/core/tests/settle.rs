//! Refunds, over-use, days and lowered limits beside a ledger that remembers everything.
#![cfg(not(loom))]

use std::collections::VecDeque;
use std::time::Duration;

use proptest::prelude::*;
use tollway_core::limiter::{Cost, Decision, Limiter, Limits, Name, Quota, Quotas, Stamp};

mod exact;

use exact::{TICK, amount, nanos, quota};

const SECOND: u64 = 62_500;
const MINUTE: u64 = 60 * SECOND;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// All times in ticks of the log.
struct Ledger {
    quotas: Vec<Quota>,
    output_weight: u32,
    limits: Vec<u64>,
    /// Time, time for days, cost, requests.
    charges: Vec<(u64, u64, Cost, u64)>,
    /// Time of the charge, cost and requests that came back.
    refunds: Vec<(u64, Cost, u64)>,
}

impl Ledger {
    fn ticks(quota: &Quota) -> u64 {
        u64::try_from(quota.window.as_nanos().div_ceil(u128::from(TICK))).unwrap()
    }

    fn of(&self, quota: &Quota, cost: Cost, requests: u64) -> u64 {
        match quota.name {
            Name::Rpm | Name::Rps | Name::Rpd | Name::SubWindow => requests,
            _ => amount(quota, cost, self.output_weight),
        }
    }

    /// What a window holds: of a day, whole minutes; less what came back to periods that lie in the
    /// window to their beginning: seconds, or for windows under a minute a 125th of the longest.
    fn used(&self, quota: &Quota, now: u64) -> i64 {
        let horizon = now.saturating_sub(Self::ticks(quota));
        let is_day = quota.name.is_day();
        let charged = self.charges.iter().filter(|(at, day_at, _, _)| {
            if is_day {
                day_at / MINUTE >= horizon / MINUTE
            } else {
                *at > horizon
            }
        });
        let back = self.refunds.iter().filter(|(at, _, _)| {
            if is_day {
                at / MINUTE >= horizon / MINUTE
            } else {
                let is_short = Self::ticks(quota) < MINUTE;
                let period = if is_short { self.part() } else { SECOND };
                at / period * period > horizon
            }
        });
        let charged: u64 = charged
            .map(|(_, _, cost, n)| self.of(quota, *cost, *n))
            .sum();
        let back: u64 = back.map(|(_, cost, n)| self.of(quota, *cost, *n)).sum();
        i64::try_from(charged).unwrap() - i64::try_from(back).unwrap()
    }

    fn part(&self) -> u64 {
        let short = self
            .quotas
            .iter()
            .map(Self::ticks)
            .filter(|it| *it < MINUTE);
        short.max().unwrap().div_ceil(125)
    }

    fn admits(&self, now: u64, cost: Cost) -> bool {
        self.quotas.iter().zip(&self.limits).all(|(quota, limit)| {
            let amount = i64::try_from(self.of(quota, cost, 1)).unwrap();
            amount == 0 || self.used(quota, now) + amount <= i64::try_from(*limit).unwrap()
        })
    }

    fn due(&self, now: u64, cost: Cost) -> u64 {
        let mut times = vec![now];
        for quota in &self.quotas {
            let window = Self::ticks(quota);
            times.extend(self.charges.iter().map(|(at, day_at, _, _)| {
                if quota.name.is_day() {
                    (day_at / MINUTE + 1) * MINUTE + window
                } else {
                    at + window
                }
            }));
        }
        times.sort_unstable();
        let mut later = times.into_iter().filter(|at| *at >= now);
        later
            .find(|at| self.admits(*at, cost))
            .expect("everything leaves in the end")
    }

    fn refuses(&self, cost: Cost) -> bool {
        let mut both = self.quotas.iter().zip(&self.limits);
        both.any(|(quota, limit)| self.of(quota, cost, 1) > *limit)
    }

    /// As the limiter places it: with the last admission if that is recent, else by itself.
    fn charge(&mut self, now: u64, over: Cost) {
        let is_token = |quota: &Quota| !matches!(self.of(quota, Cost::default(), 1), 1);
        if over == Cost::default() || !self.quotas.iter().any(is_token) {
            return;
        }
        match self.charges.last() {
            Some(last) if now <= last.0 + SECOND => {
                let request = self.charges.iter().rposition(|(.., n)| *n == 1).unwrap();
                for charge in &mut self.charges[request..] {
                    charge.0 = now;
                }
                self.charges.push((now, now, over, 0));
            }
            // It takes the place of a request, which comes back but for the shortest windows.
            _ => {
                self.charges.push((now, now, over, 1));
                self.refunds.push((now, Cost::default(), 1));
            }
        }
    }
}

fn any_quotas() -> impl Strategy<Value = Vec<Quota>> {
    let minute = (60_000u64..70_000).prop_map(Duration::from_millis);
    let short = (200u64..3_000).prop_map(Duration::from_millis);
    let long = prop::sample::select(vec![Name::Rpm, Name::Tpm, Name::InputTpm, Name::OutputTpm]);
    let day = prop::sample::select(vec![Name::Rpd, Name::Tpd]);
    let one = prop_oneof![
        4 => (long, 5u64..120, minute).prop_map(|(name, limit, window)| quota(name, limit, window)),
        1 => (1u64..8, short).prop_map(|(limit, window)| quota(Name::Rps, limit, window)),
        1 => (day, 20u64..400).prop_map(|(name, limit)| quota(name, limit, DAY)),
    ];
    let first = prop_oneof![3u64..40, 60u64..250]
        .prop_map(|limit| quota(Name::Rpm, limit, Duration::from_secs(60)));
    (first, prop::collection::vec(one, 0..5)).prop_map(|(first, mut others)| {
        others.push(first);
        others
    })
}

fn any_cost() -> impl Strategy<Value = Cost> {
    (0u32..30, 0u32..10).prop_map(|(input, output)| Cost { input, output })
}

#[derive(Clone, Debug)]
enum Act {
    Acquire(Cost),
    Cancel(prop::sample::Index),
    Settle(prop::sample::Index, Cost),
    Lower(prop::sample::Index, Option<u64>),
}

fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        5 => any_cost().prop_map(Act::Acquire),
        1 => any::<prop::sample::Index>().prop_map(Act::Cancel),
        2 => (any::<prop::sample::Index>(), any_cost()).prop_map(|(i, cost)| Act::Settle(i, cost)),
        1 => (any::<prop::sample::Index>(), prop::option::of(1u64..60))
            .prop_map(|(i, limit)| Act::Lower(i, limit)),
    ]
}

/// Ticks to the next act: none, some, about a second, about a window, hours.
fn step() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => Just(0),
        4 => 0..2 * SECOND,
        4 => 0..20 * SECOND,
        2 => 55 * SECOND..65 * SECOND,
        1 => 0..7 * 60 * MINUTE,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

    /// On whole ticks, decisions, waits and what every window holds are the ledger's: refunds in
    /// the second that they came from, over-use at once, days in minutes, lowered limits at once.
    #[test]
    fn settles_as_the_ledger(
        windows in any_quotas(),
        script in prop::collection::vec((step(), any_act(), any::<bool>()), 1..150),
        output_weight in 1u32..6,
    ) {
        let quotas = Quotas { output_weight, ..Quotas::of(&windows) };
        let limiter = Limiter::with_quotas(&quotas).unwrap();
        // The log's own clock begins so long before the origin.
        let short = windows.iter().filter(|quota| !quota.name.is_day());
        let offset = short.map(Ledger::ticks).max().unwrap() + (1 << 16);
        let mut ledger = Ledger {
            limits: windows.iter().map(|quota| quota.limit).collect(),
            quotas: windows.clone(),
            output_weight,
            charges: Vec::new(),
            refunds: Vec::new(),
        };
        let mut open: Vec<(Stamp, Cost)> = Vec::new();
        let mut now = offset;
        for (step, act, jump) in script {
            now += step;
            // Past the end of the ring it denies more than the ledger does.
            let own = ledger.charges.iter().filter(|(at, .., n)| *n == 1 && at + offset > now);
            if own.count() + 2 >= limiter.slots() as usize {
                break;
            }
            let nanos_of = |ticks: u64| (ticks - offset) * TICK;
            match act {
                Act::Acquire(cost) => {
                    if ledger.refuses(cost) {
                        prop_assert!(limiter.try_acquire(nanos_of(now), cost).is_err());
                        continue;
                    }
                    let mut decision = limiter.try_acquire(nanos_of(now), cost).unwrap();
                    prop_assert_eq!(nanos(decision), (ledger.due(now, cost) - now) * TICK);
                    if jump && nanos(decision) > 0 {
                        now += nanos(decision) / TICK;
                        decision = limiter.try_acquire(nanos_of(now), cost).unwrap();
                        prop_assert_eq!(nanos(decision), 0);
                    }
                    if let Decision::Admitted(stamp) = decision {
                        prop_assert_eq!(stamp, Stamp(now));
                        ledger.charges.push((now, now, cost, 1));
                        open.push((stamp, cost));
                    }
                }
                Act::Cancel(_) | Act::Settle(..) if open.is_empty() => {}
                Act::Cancel(which) => {
                    let (stamp, cost) = open.swap_remove(which.index(open.len()));
                    limiter.refund(stamp, cost);
                    ledger.refunds.push((stamp.0, cost, 1));
                }
                Act::Settle(which, used) => {
                    let (stamp, cost) = open.swap_remove(which.index(open.len()));
                    limiter.settle(nanos_of(now), stamp, cost, used);
                    let less = |a: u32, b: u32| a.saturating_sub(b);
                    let back = Cost {
                        input: less(cost.input, used.input),
                        output: less(cost.output, used.output),
                    };
                    ledger.refunds.push((stamp.0, back, 0));
                    let over = Cost {
                        input: less(used.input, cost.input),
                        output: less(used.output, cost.output),
                    };
                    ledger.charge(now, over);
                }
                Act::Lower(which, limit) => {
                    let which = which.index(windows.len());
                    let name = windows[which].name;
                    limiter.set_ceiling(name, limit);
                    for (index, quota) in windows.iter().enumerate() {
                        if quota.name == name {
                            ledger.limits[index] = limit.unwrap_or(u64::MAX).min(quota.limit);
                        }
                    }
                }
            }
            for (quota, used) in windows.iter().zip(limiter.used(nanos_of(now))) {
                prop_assert_eq!(i64::try_from(used).unwrap(), ledger.used(quota, now).max(0));
            }
        }
    }
}

/// A request that is sent late counts from then on, and once: in a second as in a minute.
#[test]
fn a_request_sent_late_counts_once() {
    let second = Duration::from_secs(1);
    let windows = [
        quota(Name::Rps, 3, second),
        quota(Name::Rpm, 100, 60 * second),
    ];
    let quotas = Quotas {
        tolerance: second / 50,
        ..Quotas::of(&windows)
    };
    let limiter = Limiter::with_quotas(&quotas).unwrap();
    let millis = |count: u64| count * 1_000_000;
    let one = Cost::default();
    let stamps = [0, 0, 0].map(|now| match limiter.try_acquire(now, one) {
        Ok(Decision::Admitted(stamp)) => stamp,
        other => panic!("{other:?}"),
    });
    assert_eq!(limiter.sent(millis(15), stamps[0], one), stamps[0]);
    for stamp in &stamps[1..] {
        assert_ne!(limiter.sent(millis(100), *stamp, one), *stamp);
    }
    assert_eq!(limiter.used(millis(100)), [3, 3]);
    let wait = |now| nanos(limiter.try_acquire(millis(now), one).unwrap());
    // The first one leaves in time; the others only when a second has passed since they were sent.
    assert_eq!(wait(1_000), 0);
    assert!(wait(1_001) > millis(90));
    assert_eq!([wait(1_110), wait(1_110)], [0, 0]);
    assert!(wait(1_110) > 0);
}

/// However many charges are moved, the log looks back on a whole window.
#[test]
fn requests_that_are_all_sent_late_use_the_quota_too() {
    let limits = Limits {
        rpm: Some(500),
        sub_windows: vec![Duration::from_secs(1)],
        ..Limits::default()
    };
    let limiter = Limiter::new(&limits, None).unwrap();
    let (one, late, minutes) = (Cost::default(), 30_000_000, 3);
    let (mut now, mut admitted) = (0, 0);
    // When each is said to be sent, and for which time.
    let mut open = VecDeque::new();
    while now < minutes * 60_000_000_000 {
        match limiter.try_acquire(now, one).unwrap() {
            Decision::Admitted(stamp) => {
                admitted += 1;
                open.push_back((now + late, stamp, 1));
                now += TICK;
            }
            Decision::Wait(wait) => {
                let due = now + u64::try_from(wait.as_nanos()).unwrap();
                now = open.front().map_or(due, |(at, ..)| due.min(*at));
            }
        }
        while let Some(&(at, stamp, time)) = open.front()
            && at <= now
        {
            open.pop_front();
            let moved = limiter.sent(now, stamp, one);
            assert_ne!(moved, stamp);
            if time == 1 {
                open.push_back((now + late, moved, 2));
            }
        }
    }
    // The others wait while the sub-window's are under way.
    assert!(admitted > minutes * 425, "{admitted}");
}

/// 2³² tokens and more, most of which came back, pass through one window: its sums have 32 bits.
#[test]
fn what_comes_back_makes_no_room_beyond_the_sums() {
    let minute = Duration::from_secs(60);
    let windows = [quota(Name::Tpm, 2_000_000_000, minute)];
    let limiter = Limiter::with_quotas(&Quotas::of(&windows)).unwrap();
    let whole = Cost::input(2_000_000_000);
    let mut held = 0;
    for turn in 0..6 {
        if let Ok(Decision::Admitted(stamp)) = limiter.try_acquire(turn * TICK, whole) {
            if turn < 3 {
                limiter.refund(stamp, whole);
            } else {
                held += 1;
            }
        }
    }
    assert!(held <= 1, "{held} whole quotas in one window");
    let later = u64::try_from(2 * minute.as_nanos()).unwrap();
    assert_eq!(nanos(limiter.try_acquire(later, whole).unwrap()), 0);
}
