//! `run` and `resume`: an engine, its audience, and its end.

use std::io::{self, Write};
use std::sync::Arc;

use moodify_core::action::Registry;
use moodify_core::backend::{Backends, Notifier};
use moodify_core::clock::{Clock, SystemClock};
use moodify_core::engine::Ending;
use moodify_core::journal::{JournalStore, MemoryJournal, RunState};
use moodify_core::{Engine, RunId};
use moodify_k8s::HeadRoom;
use tokio_util::sync::CancellationToken;

use crate::args::{Global, Output, Resume, Run, Speed};
use crate::backends::{self, Settings};
use crate::exit::{Exit, Stop};
use crate::plan::{Loaded, Nobody};
use crate::preflight::check_context;
use crate::runs;
use crate::show::{Header, Screen, choose, how_to_resume};
use crate::{runtime, signals, simulate};

/// Everything that a run is driven with.
pub(crate) struct Drive {
    pub(crate) journal: Arc<dyn JournalStore>,
    pub(crate) backends: Backends,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) speed: Speed,
    pub(crate) output: Output,
    pub(crate) progress: bool,
    /// Its world ends with this process.
    pub(crate) simulated: bool,
    /// The flag that names where the runs are, if one was given.
    pub(crate) place: Option<String>,
    /// No other process can reach the run.
    pub(crate) in_memory: bool,
}

pub(crate) fn run(args: &Run, global: &Global) -> Result<Exit, Stop> {
    let mut loaded = Loaded::read(&args.plan)?;
    let output = choose(global.output);
    if !args.simulation.simulate {
        return runtime()?.block_on(real(args, global, &loaded, output));
    }
    Settings::read(&loaded.source)?;
    simulate::mark(&mut loaded.plan, &args.simulation);
    let runtime = simulate::runtime().map_err(|e| Stop::refused(format!("the runtime cannot start: {e}")))?;
    runtime.block_on(async {
        let (backends, clock) = simulate::world(&loaded.plan, &args.simulation)?;
        loaded.check(&backends).await?;
        let in_memory = global.place().is_none();
        let journal = if in_memory { Arc::new(MemoryJournal::new()) } else { runs::make(global).await? };
        let answered = !in_memory && simulate::asks(&loaded.plan);
        let drive = Drive {
            journal,
            backends,
            clock,
            speed: simulate::speed(&args.simulation, output, answered),
            output,
            progress: args.progress,
            simulated: true,
            place: global.place(),
            in_memory,
        };
        drive.begin(async |engine| engine.create(&loaded.plan, &args.who.name()).await).await
    })
}

async fn real(args: &Run, global: &Global, loaded: &Loaded, output: Output) -> Result<Exit, Stop> {
    let settings = Settings::read(&loaded.source)?;
    let opened = settings.open().await.map_err(|errors| backends::placed(&loaded.source, errors))?;
    loaded.check(&opened.backends).await?;
    opened.preflight(&loaded.plan).await?;
    // An autoscaler may add nodes, so it is no reason to refuse; and who may not ask is not told at every run.
    if let room @ HeadRoom::Short { .. } = opened.kube.head_room_of_plan(&check_context(), &loaded.plan).await {
        let _ = writeln!(io::stderr(), "note: {room}");
    }
    let journal = runs::make(global).await?;
    let drive = Drive::real(journal, opened.backends, output, args.progress, global);
    drive.begin(async |engine| engine.create(&loaded.plan, &args.who.name()).await).await
}

pub(crate) fn resume(args: &Resume, global: &Global) -> Result<Exit, Stop> {
    runtime()?.block_on(async {
        let journal = runs::open(global).await?;
        let run = runs::choose(&journal, args.run.clone(), global).await?;
        let state = runs::state(&journal, &run).await?;
        if let Some((outcome, summary)) = &state.ended {
            return Err(Stop::invalid(format!("{run} is over ({outcome}): {summary}")));
        }
        if simulate::is_simulated(&state.plan) {
            let message = format!("{run} was simulated: its world ended with its process; run the plan again instead");
            return Err(Stop::invalid(message));
        }
        let settings = Settings::of_run(&state.plan)?;
        let opened = settings.open().await.map_err(|errors| Stop::before(&errors))?;
        let drive = Drive::real(journal, opened.backends, choose(global.output), args.progress, global);
        drive.go_on(&run, &state).await
    })
}

impl Drive {
    /// Everything for a run that is not simulated.
    pub(crate) fn real(
        journal: Arc<dyn JournalStore>,
        backends: Backends,
        output: Output,
        progress: bool,
        global: &Global,
    ) -> Self {
        Self {
            journal,
            backends,
            clock: Arc::new(SystemClock),
            speed: Speed::Max,
            output,
            progress,
            simulated: false,
            place: global.place(),
            in_memory: false,
        }
    }

    fn engine(&self, console: Arc<dyn Notifier>) -> Engine {
        Engine::new(self.journal.clone(), backends::with_console(self.backends.clone(), console))
            .with_registry(Registry::with_builtins())
            .with_clock(self.clock.clone())
    }

    fn open(&self, state: &RunState) -> (Engine, Screen) {
        let world = self.simulated.then(|| match self.speed {
            Speed::Max => "simulated".to_owned(),
            Speed::Times(times) => format!("simulated, {times} times as fast"),
        });
        let header = Header { plan: state.plan.clone(), world, place: self.place.clone() };
        let screen = Screen::open(self.output, self.progress, header, self.clock.clone());
        (self.engine(screen.notifier()), screen)
    }

    /// Makes a run and drives it.
    pub(crate) async fn begin(
        self,
        make: impl AsyncFnOnce(&Engine) -> moodify_core::Result<RunId>,
    ) -> Result<Exit, Stop> {
        let maker = self.engine(Arc::new(Nobody));
        let run = make(&maker).await?;
        let (engine, screen) = self.open(&maker.state(&run).await?);
        for event in engine.events(&run, 1).await? {
            screen.event(event);
        }
        self.drive(engine, screen, &run).await
    }

    async fn go_on(self, run: &RunId, state: &RunState) -> Result<Exit, Stop> {
        let (engine, screen) = self.open(state);
        for event in engine.events(run, 1).await? {
            screen.past(event);
        }
        self.drive(engine, screen, run).await
    }

    async fn drive(self, engine: Engine, screen: Screen, run: &RunId) -> Result<Exit, Stop> {
        let shown = screen.follow(engine.subscribe());
        let stop = CancellationToken::new();
        signals::watch(stop.clone());
        let people =
            async { if self.in_memory { simulate::people(&engine, run).await } else { std::future::pending().await } };
        let result = tokio::select! {
            result = engine.drive(run, &stop) => result,
            () = people => Ok(Ending::Interrupted),
            () = simulate::pace(self.speed) => Ok(Ending::Interrupted),
        };
        // The audience leaves when the engine is gone.
        drop(engine);
        let _ = shown.await;
        let words = match &result {
            Ok(Ending::Interrupted) if self.simulated => {
                "interrupted; a simulated world ends with its process".to_owned()
            }
            Ok(Ending::Interrupted) => format!("interrupted; {}", how_to_resume(run, self.place.as_deref())),
            _ => String::new(),
        };
        screen.close(words);
        match result {
            Ok(ending) => Ok(Exit::from(&ending)),
            Err(e) => Err(Stop::during(&e)),
        }
    }
}
