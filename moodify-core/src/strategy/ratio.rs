use crate::model::Weight;

/// Instances of the two tracks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// Stable instances.
    pub stable: u32,
    /// Canary instances.
    pub canary: u32,
}

impl Split {
    /// The canary's share of the traffic if every instance gets the same, as a fraction of one.
    #[must_use]
    pub fn share(self) -> f64 {
        let total = self.stable + self.canary;
        if total == 0 { 0.0 } else { f64::from(self.canary) / f64::from(total) }
    }

    /// The share as the nearest whole percent.
    #[must_use]
    pub fn weight(self) -> Weight {
        // In 0..=100 by construction.
        Weight::new((self.share() * 100.0).round() as u8).unwrap_or(Weight::FULL)
    }
}

/// How many of `capacity` instances are nearest to `weight`. From 1 to 99 % at least one, and not all; `None` where there
/// are too few instances for that.
///
/// ```
/// use moodify_core::model::Weight;
/// use moodify_core::strategy::batch;
/// let weight = |percent| Weight::new(percent).unwrap();
/// assert_eq!(batch(10, weight(10)), Some(1));
/// assert_eq!(batch(3, weight(10)), Some(1), "the least there is");
/// assert_eq!(batch(3, weight(99)), Some(2), "not all yet");
/// assert_eq!(batch(1, weight(50)), None, "there is no half of it");
/// assert_eq!(batch(1, Weight::FULL), Some(1));
/// ```
#[must_use]
pub fn batch(capacity: u32, weight: Weight) -> Option<u32> {
    if weight == Weight::ZERO || weight == Weight::FULL {
        return Some(if weight == Weight::FULL { capacity } else { 0 });
    }
    let nearest = (u64::from(capacity) * u64::from(weight.percent()) + 50) / 100;
    let most = capacity.checked_sub(1).filter(|most| *most > 0)?;
    Some(u32::try_from(nearest).unwrap_or(most).clamp(1, most))
}

/// The split of instances whose ratio is nearest to `weight`: with `capacity` instances in all, or one more if that is
/// nearer. From 1 to 99 % neither track has 0 instances. Of equally near ones the one with fewer instances, then with
/// fewer canaries.
///
/// ```
/// use moodify_core::model::Weight;
/// use moodify_core::strategy::{Split, split};
/// let weight = |percent| Weight::new(percent).unwrap();
/// assert_eq!(split(10, weight(10)), Split { stable: 9, canary: 1 });
/// assert_eq!(split(3, weight(50)), Split { stable: 2, canary: 2 }, "one more instance is nearer");
/// assert_eq!(split(3, weight(10)), Split { stable: 3, canary: 1 }, "the best that 3 or 4 instances can do");
/// ```
#[must_use]
pub fn split(capacity: u32, weight: Weight) -> Split {
    if weight == Weight::ZERO || capacity == 0 {
        return Split { stable: capacity, canary: 0 };
    }
    if weight == Weight::FULL {
        return Split { stable: 0, canary: capacity };
    }
    let wanted = u64::from(weight.percent());
    let best_of = |total: u32| {
        let ideal = u64::from(total) * wanted / 100;
        let candidates = [ideal, ideal + 1].map(|c| u32::try_from(c).unwrap_or(total).clamp(1, total - 1));
        candidates.map(|canary| Split { stable: total - canary, canary })
    };
    // |canary/total - wanted/100|, compared exactly: the numerators over the common denominator.
    let distance = |s: &Split| {
        let total = u64::from(s.stable + s.canary);
        ((u64::from(s.canary) * 100).abs_diff(total * wanted), total)
    };
    let mut all: Vec<Split> = best_of(capacity.max(2)).to_vec();
    all.extend(best_of(capacity.max(2).max(capacity + 1)));
    all.sort_by(|a, b| {
        let ((da, ta), (db, tb)) = (distance(a), distance(b));
        (da * tb).cmp(&(db * ta)).then(ta.cmp(&tb)).then(a.canary.cmp(&b.canary))
    });
    all[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nearest_of_all_choices(capacity in 1u32..60, percent in 1u8..100) {
            let chosen = split(capacity, Weight::new(percent).unwrap());
            let wanted = f64::from(percent) / 100.0;
            prop_assert!(chosen.stable >= 1 && chosen.canary >= 1);
            let total = chosen.stable + chosen.canary;
            prop_assert!(total >= capacity && total <= capacity + 1);
            for total in capacity.max(2)..=capacity + 1 {
                for canary in 1..total {
                    let other = Split { stable: total - canary, canary };
                    prop_assert!((chosen.share() - wanted).abs() <= (other.share() - wanted).abs() + 1e-12);
                }
            }
        }

        #[test]
        fn more_weight_is_never_fewer_canaries(capacity in 1u32..60, percent in 1u8..99) {
            let less = split(capacity, Weight::new(percent).unwrap());
            let more = split(capacity, Weight::new(percent + 1).unwrap());
            prop_assert!(more.share() >= less.share());
        }
    }

    #[test]
    fn the_ends() {
        assert_eq!(split(5, Weight::ZERO), Split { stable: 5, canary: 0 });
        assert_eq!(split(5, Weight::FULL), Split { stable: 0, canary: 5 });
        assert_eq!(split(1, Weight::new(1).unwrap()), Split { stable: 1, canary: 1 });
    }
}
