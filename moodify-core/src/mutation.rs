//! Ways to break moodify on purpose, one at a time, so that tests can show that they would notice. Without the feature
//! `testing` none of them exists.

macro_rules! mutations {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $promise:literal;)*) => {
        /// One way in which moodify can be broken on purpose.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[cfg_attr(feature = "testing", non_exhaustive)]
        #[repr(u8)]
        #[cfg_attr(not(feature = "testing"), expect(unreachable_pub, reason = "public with the feature"))]
        pub enum Mutation {
            $($(#[doc = $doc])+ $variant,)*
        }

        #[cfg(feature = "testing")]
        impl Mutation {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its name, as on a command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The number of the promise that it breaks.
            #[must_use]
            pub const fn promise(self) -> u8 {
                match self { $(Self::$variant => $promise,)* }
            }
        }
    };
}

mutations! {
    /// A closed gate is passed.
    SkipGates = "skip-gates", 1;
    /// Traffic moves before the journal allows it.
    ShiftBeforeCheckpoint = "shift-before-checkpoint", 2;
    /// A run ends as completed with steps left.
    EndHalfWay = "end-half-way", 3;
    /// An abort that was accepted is not obeyed.
    IgnoreAbort = "ignore-abort", 3;
    /// A step that could not be undone counts as undone.
    UndoFailureIsFine = "undo-failure-reported-as-rolled-back", 3;
    /// Of a completed release that is taken back, only the first service is.
    TakeBackHalf = "take-back-half", 3;
    /// A run without data waits for ever.
    HoldForEver = "hold-for-ever", 4;
    /// A step whose effect is unknown is repeated without a look.
    RepeatWithoutObserving = "repeat-without-observing", 5;
    /// A step is begun before that is written down.
    EffectBeforeRecord = "effect-before-record", 5;
    /// Every look at the status page opens an incident.
    OpenTwice = "open-twice", 5;
    /// A step that was under way when its engine died is not undone.
    ForgetUndoOfUnknown = "forget-undo-of-unknown", 6;
    /// The step that failed is not undone.
    ForgetUndoOfFailed = "forget-undo-of-failed", 6;
    /// A completed release is taken back only while it is well.
    TakeBackAsksHealth = "take-back-asks-health", 6;
    /// A way back waits for metrics.
    RollbackAsksMetrics = "rollback-asks-metrics", 6;
    /// A way back stops when the status page cannot be told.
    StatusPageStopsRollback = "status-page-failure-stops-rollback", 6;
    /// Steps are undone in the order in which they were done.
    UndoInForwardOrder = "undo-in-forward-order", 6;
    /// No data is health.
    TrustNoData = "trust-no-data", 7;
    /// What is not a number is judged like one.
    TrustNan = "trust-nan", 7;
    /// A bake that was cancelled counts as done.
    CancelledBakeIsSuccess = "cancelled-bake-is-success", 7;
    /// Time in which nobody watched counts as watched.
    CountUnwatchedTime = "lose-bake-progress-forward", 7;
    /// A bake is measured by the wall clock.
    BakeByWallClock = "promote-early-after-clock-jump", 7;
    /// What is inconclusive is taken back.
    InconclusiveRollsBack = "inconclusive-rolls-back", 7;
    /// An engine does not ask whether the run is still its own, and the journal does not either.
    SkipFence = "skip-fence", 8;
    /// The journal takes records of an engine that lost the run.
    AcceptLateAppends = "late-append-accepted", 8;
    /// What a backend cannot do is not refused when the plan is checked.
    UnsupportedIsFine = "unsupported-is-ok", 9;
    /// The incident of a run that went back stays open.
    LeaveIncidentOpen = "leave-incident-open", 10;
    /// The canaries of a run that went back stay.
    LeaveCanary = "leave-canary", 10;
    /// Known secrets are not taken out of texts.
    TellSecrets = "tell-secrets", 11;
    /// A name is handed over to a version that may have no instances yet.
    HandOverBlindly = "hand-over-blindly", 3;
    /// Somebody else's weight is overwritten.
    OverwriteDrift = "overwrite-drift", 12;
    /// A run that finds somebody else's edit goes back over it.
    DriftRollsBack = "drift-rolls-back", 12;
}

#[cfg(feature = "testing")]
mod switch {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::Mutation;

    const NONE: u8 = u8::MAX;
    static CHOSEN: AtomicU8 = AtomicU8::new(NONE);

    /// Breaks moodify in this way from now on, in the whole process; `None` mends it.
    pub fn set(mutation: Option<Mutation>) {
        CHOSEN.store(mutation.map_or(NONE, |mutation| mutation as u8), Ordering::SeqCst);
    }

    /// Whether moodify is broken in this way.
    #[must_use]
    pub fn on(mutation: Mutation) -> bool {
        CHOSEN.load(Ordering::Relaxed) == mutation as u8
    }
}

#[cfg(feature = "testing")]
pub use switch::{on, set};

/// Never, without the feature `testing`.
#[cfg(not(feature = "testing"))]
pub(crate) const fn on(_: Mutation) -> bool {
    false
}
