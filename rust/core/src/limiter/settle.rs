//! What follows an admission: refunds, over-use, reservations that end.

use super::adjust::Sums;
use super::admissions::View;
use super::decide::{Limiter, Stamp};
use super::memory::SECOND;
use super::quota::{Cost, Unit};
use super::window::MOST_HELD;

impl Limiter {
    /// Give back all that an admission of this stamp took, its request included: it was never sent.
    pub fn refund(&self, stamp: Stamp, cost: Cost) {
        self.give(stamp, Sums::of(cost, 1));
    }

    /// Replace what an admission reserved by what it took.
    ///
    /// What was not used comes back to the windows that it was taken from, as long as they hold it;
    /// windows shorter than a minute hold only requests. What was used beyond is charged at `now`,
    /// whether there is room for it or not.
    pub fn settle(&self, now: u64, stamp: Stamp, reserved: Cost, used: Cost) {
        self.give(
            stamp,
            Sums::of(
                Cost {
                    input: reserved.input.saturating_sub(used.input),
                    output: reserved.output.saturating_sub(used.output),
                },
                0,
            ),
        );
        self.charge(
            now,
            Cost {
                input: used.input.saturating_sub(reserved.input),
                output: used.output.saturating_sub(reserved.output),
            },
        );
    }

    /// Say that a request is sent at `now`.
    ///
    /// If that is later after its stamp than half the margin of the windows, it is charged again,
    /// at `now` and whether there is room or not, and the first charge is given back; one that
    /// would overflow the sums stays where it is. Returns the stamp that counts.
    pub fn sent(&self, now: u64, stamp: Stamp, cost: Cost) -> Stamp {
        let is_in_time = self.log.ceil(now) <= stamp.0.saturating_add(self.tolerance);
        if is_in_time || self.tolerance == 0 || self.windows.is_empty() {
            return stamp;
        }
        loop {
            let (view, time, room) = self.place_to_charge(now);
            if cost.weighted(self.quotas.output_weight) > room {
                return stamp;
            }
            if self.log.admit(&view, time, cost) {
                self.refund(stamp, cost);
                return Stamp(time);
            }
        }
    }

    /// Begin a reservation; false where as many are under way as may be.
    pub fn lease(&self) -> bool {
        self.leases.take()
    }

    /// End a reservation.
    pub fn end_lease(&self) {
        self.leases.give_back();
    }

    fn give(&self, stamp: Stamp, amount: Sums) {
        if amount == Sums::default() || self.windows.is_empty() {
            return;
        }
        self.refunds.add(stamp.0, amount);
        if let Some(short) = self.short_refunds.as_ref().filter(|_| amount.requests > 0) {
            short.add(stamp.0, amount);
        }
        if let Some(days) = &self.days {
            days.refund(stamp.0, amount);
        }
    }

    fn charge(&self, now: u64, over: Cost) {
        let counts_tokens = self
            .windows
            .iter()
            .any(|window| window.unit != Unit::Requests);
        if over == Cost::default() || !counts_tokens {
            return;
        }
        loop {
            let (view, time, room) = self.place_to_charge(now);
            let charged = Cost {
                input: over.input.min(room),
                output: over.output.min(room / self.quotas.output_weight),
            };
            if charged == Cost::default() {
                return;
            }
            // Where every admission has a serial, the charge shares that of the last one, which is
            // moved to the present for it; one that lies back too far has a place of its own,
            // whose request is no request.
            if time <= view.time + SECOND || !self.log.counts_by_serial() {
                if self.log.charge(&view, time, charged) {
                    return;
                }
            } else if self.log.admit(&view, time, charged) {
                self.give(Stamp(time), Sums::of(Cost::default(), 1));
                return;
            }
        }
    }

    /// The log as it is, the time of what is charged next, and how many tokens that may be.
    fn place_to_charge(&self, now: u64) -> (View, u64, u32) {
        loop {
            let view = self.log.view();
            let time = self.log.stamp(&view, now);
            if let Some(days) = &self.days
                && days.prepare(&self.log, &view, time).is_err()
            {
                continue;
            }
            if let Some(room) = self.room_to_charge(&view, time) {
                return (view, time, room);
            }
        }
    }

    /// How many tokens may be charged before the sums of some window overflow.
    fn room_to_charge(&self, view: &View, at: u64) -> Option<u32> {
        let mut held = 0;
        for (window, quota) in self.windows.iter().zip(&self.quotas.windows) {
            let used = match &self.days {
                _ if window.unit == Unit::Requests => continue,
                Some(days) if quota.name.is_day() => days.in_minute(&self.log, view).ok()?,
                _ => window.held(&self.log, view, at).ok()?,
            };
            held = held.max(used);
        }
        // Halved, because input and output may count in one sum.
        u32::try_from(MOST_HELD.saturating_sub(held) / 2).ok()
    }
}
