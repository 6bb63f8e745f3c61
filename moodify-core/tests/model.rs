//! The protocol of sessions, leases and fencing tokens, checked exhaustively: every interleaving of two and three engines,
//! of messages that are late or lost, and of time. What is modelled is what `JournalStore` promises and what the engine's
//! session does with it; that each store keeps the promise is the conformance suite's to show.

use stateright::{Checker, HasDiscoveries, Model, Property};

/// How long a session lasts, in ticks.
const TTL: u8 = 2;

/// What is broken on purpose, to see that the checker would notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// An engine counts its time from when the answer came, not from when it asked.
    CountsFromTheAnswer,
    /// A renewal that came back after the session had run out counts, and taking over a run does not end the session that
    /// had run out. (Each of the two alone would be enough.)
    TrustsWhatRanOut,
    /// The store accepts appends under an old token, wherever the journal ends. (Either check alone would be enough.)
    AcceptsLateAppends,
    /// An engine does not look at the time before an effect.
    DoesNotAskBeforeAnEffect,
}

#[derive(Debug, Clone)]
struct Protocol {
    engines: usize,
    runs: usize,
    /// When the world ends, in ticks.
    end: u8,
    /// The most messages that are on their way at once.
    messages: usize,
    broken: Broken,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    now: u8,
    runs: Vec<Run>,
    /// Until when the store thinks that each engine's session lasts.
    sessions: Vec<Option<u8>>,
    engines: Vec<Engine>,
    /// Messages on their way, in no order.
    network: Vec<Message>,
    violation: Option<&'static str>,
    taken_over: bool,
    refused_late: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Run {
    token: u8,
    holder: Option<usize>,
    /// The token of every record.
    records: Vec<u8>,
}

/// What an engine knows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Engine {
    /// Counts its sessions: answers to an old one do not concern the new one.
    session: u8,
    until: u8,
    lost: bool,
    /// The token under which it has each run.
    tokens: Vec<Option<u8>>,
    asking: bool,
    renewing: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Message {
    Acquire { engine: usize, session: u8, run: usize, sent: u8 },
    Acquired { engine: usize, session: u8, run: usize, sent: u8, token: Option<u8> },
    Renew { engine: usize, session: u8, sent: u8 },
    Renewed { engine: usize, session: u8, sent: u8, fenced: bool },
    Append { run: usize, token: u8, expected: usize },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Act {
    Tick,
    Acquire { engine: usize, run: usize },
    Renew { engine: usize },
    Append { engine: usize, run: usize },
    Effect { engine: usize, run: usize },
    NewSession { engine: usize },
    Deliver(Message),
}

impl Engine {
    fn holds(&self, now: u8) -> bool {
        !self.lost && now < self.until
    }
}

impl Protocol {
    fn deliver(&self, state: &mut State, message: Message) {
        let now = state.now;
        match message {
            Message::Acquire { engine, session, run, sent } => {
                let holder = state.runs[run].holder.filter(|holder| *holder != engine);
                let lasts = holder.is_some_and(|holder| state.sessions[holder].is_some_and(|until| until > now));
                let token = (!lasts).then(|| {
                    if let Some(holder) = holder {
                        state.taken_over = true;
                        if self.broken != Broken::TrustsWhatRanOut {
                            state.sessions[holder] = None;
                        }
                    }
                    state.sessions[engine] = Some(now + TTL);
                    let run = &mut state.runs[run];
                    run.token += 1;
                    run.holder = Some(engine);
                    run.token
                });
                state.network.push(Message::Acquired { engine, session, run, sent, token });
            }
            Message::Renew { engine, session, sent } => {
                let fenced = state.sessions[engine].is_none();
                if !fenced {
                    state.sessions[engine] = Some(now + TTL);
                }
                state.network.push(Message::Renewed { engine, session, sent, fenced });
            }
            Message::Append { run, token, expected } => {
                let run = &mut state.runs[run];
                let fits = token == run.token && run.records.len() == expected;
                if fits || self.broken == Broken::AcceptsLateAppends {
                    run.records.push(token);
                } else if token < run.token {
                    state.refused_late = true;
                }
            }
            Message::Acquired { engine, session, run, sent, token } => {
                let known = &mut state.engines[engine];
                if known.session == session {
                    known.asking = false;
                    if let Some(token) = token {
                        self.extend(known, sent, now);
                        if known.holds(now) {
                            known.tokens[run] = Some(token);
                        }
                    }
                }
            }
            Message::Renewed { engine, session, sent, fenced } => {
                let known = &mut state.engines[engine];
                if known.session == session {
                    known.renewing = false;
                    if fenced {
                        known.lost = true;
                    } else {
                        self.extend(known, sent, now);
                    }
                }
            }
        }
    }

    fn extend(&self, engine: &mut Engine, sent: u8, now: u8) {
        let from = if self.broken == Broken::CountsFromTheAnswer { now } else { sent };
        if now < engine.until || self.broken == Broken::TrustsWhatRanOut {
            engine.until = engine.until.max(from + TTL);
        } else {
            engine.lost = true;
        }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Act;

    fn init_states(&self) -> Vec<State> {
        let engine = Engine {
            session: 0,
            until: TTL,
            lost: false,
            tokens: vec![None; self.runs],
            asking: false,
            renewing: false,
        };
        vec![State {
            now: 0,
            runs: vec![Run { token: 0, holder: None, records: Vec::new() }; self.runs],
            sessions: vec![None; self.engines],
            engines: vec![engine; self.engines],
            network: Vec::new(),
            violation: None,
            taken_over: false,
            refused_late: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Act>) {
        if state.now < self.end {
            actions.push(Act::Tick);
        }
        for (engine, known) in state.engines.iter().enumerate() {
            let holds = known.holds(state.now);
            if !holds && known.session == 0 {
                actions.push(Act::NewSession { engine });
            }
            if holds && !known.renewing && known.tokens.iter().any(Option::is_some) {
                actions.push(Act::Renew { engine });
            }
            for (run, token) in known.tokens.iter().enumerate() {
                match token {
                    None if holds && !known.asking => actions.push(Act::Acquire { engine, run }),
                    Some(_) => {
                        if holds && state.runs[run].records.len() < 2 {
                            actions.push(Act::Append { engine, run });
                        }
                        if holds || self.broken == Broken::DoesNotAskBeforeAnEffect {
                            actions.push(Act::Effect { engine, run });
                        }
                    }
                    None => {}
                }
            }
        }
        for message in &state.network {
            // One that is never delivered is lost.
            actions.push(Act::Deliver(*message));
        }
    }

    fn next_state(&self, before: &State, action: Act) -> Option<State> {
        let mut state = before.clone();
        let now = state.now;
        match action {
            Act::Tick => state.now += 1,
            Act::NewSession { engine } => {
                let tokens = vec![None; self.runs];
                let session = state.engines[engine].session + 1;
                let fresh = Engine { session, until: now + TTL, lost: false, tokens, asking: false, renewing: false };
                state.engines[engine] = fresh;
            }
            Act::Acquire { engine, run } => {
                state.engines[engine].asking = true;
                let session = state.engines[engine].session;
                state.network.push(Message::Acquire { engine, session, run, sent: now });
            }
            Act::Renew { engine } => {
                state.engines[engine].renewing = true;
                let session = state.engines[engine].session;
                state.network.push(Message::Renew { engine, session, sent: now });
            }
            Act::Append { engine, run } => {
                let token = state.engines[engine].tokens[run]?;
                let expected = state.runs[run].records.len();
                let append = Message::Append { run, token, expected };
                if state.network.contains(&append) {
                    return None;
                }
                state.network.push(append);
            }
            Act::Effect { engine, run } => {
                state.engines[engine].tokens[run]?;
                if state.runs[run].holder == Some(engine) {
                    return None;
                }
                state.violation = Some("an engine that had lost the run changed something");
            }
            Act::Deliver(message) => {
                let at = state.network.iter().position(|m| *m == message)?;
                state.network.swap_remove(at);
                self.deliver(&mut state, message);
            }
        }
        state.network.sort();
        Some(state)
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.network.len() <= self.messages
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("who lost the run changes nothing", |_, state: &State| state.violation.is_none()),
            Property::always("at most one engine believes that it has a run", |_, state: &State| {
                (0..state.runs.len()).all(|run| {
                    let has = |e: &&Engine| e.holds(state.now) && e.tokens[run].is_some();
                    state.engines.iter().filter(has).count() <= 1
                })
            }),
            Property::always("tokens in a journal never go back", |_, state: &State| {
                state.runs.iter().all(|run| run.records.is_sorted())
            }),
            Property::sometimes("a run is taken over", |_, state: &State| state.taken_over),
            Property::sometimes("a late append is refused", |_, state: &State| state.refused_late),
            Property::sometimes("a taken-over run goes on", |_, state: &State| {
                state.runs.iter().any(|run| run.records.windows(2).any(|w| w[0] < w[1]))
            }),
        ]
    }
}

fn check(engines: usize, runs: usize, end: u8, messages: usize, broken: Broken) -> (usize, Vec<&'static str>) {
    let protocol = Protocol { engines, runs, end, messages, broken };
    let checker = protocol.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let found = checker.discoveries();
    let wrong = checker.model().properties().into_iter().filter_map(|property| {
        let violated =
            matches!(property.expectation, stateright::Expectation::Always) == found.contains_key(property.name);
        violated.then_some(property.name)
    });
    (checker.unique_state_count(), wrong.collect())
}

#[test]
fn two_engines_and_one_run() {
    let (states, wrong) = check(2, 1, 4, 2, Broken::Nothing);
    println!("{states} states");
    assert_eq!(wrong, Vec::<&str>::new());
    assert!(states > 1000, "{states} states are too few to mean anything");
}

#[test]
fn two_engines_whose_sessions_cover_two_runs() {
    let (states, wrong) = check(2, 2, 2, 2, Broken::Nothing);
    println!("{states} states");
    assert_eq!(wrong, Vec::<&str>::new());
}

#[test]
fn three_engines_and_one_run() {
    let (states, wrong) = check(3, 1, 3, 2, Broken::Nothing);
    println!("{states} states");
    assert_eq!(wrong, Vec::<&str>::new());
}

#[test]
fn every_way_to_break_the_protocol_is_noticed() {
    for broken in [
        Broken::CountsFromTheAnswer,
        Broken::TrustsWhatRanOut,
        Broken::AcceptsLateAppends,
        Broken::DoesNotAskBeforeAnEffect,
    ] {
        let (_, wrong) = check(2, 1, 4, 2, broken);
        assert!(wrong.iter().any(|property| !property.starts_with("a ")), "{broken:?} was not noticed: {wrong:?}");
    }
}
