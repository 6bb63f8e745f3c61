//! `run` and `resume`: an engine, its audience, and its end.

use std::path::PathBuf;
use std::sync::Arc;

use moodify_core::action::Registry;
use moodify_core::backend::Backends;
use moodify_core::clock::{Clock, SystemClock};
use moodify_core::engine::Ending;
use moodify_core::journal::{FileJournal, JournalStore, MemoryJournal};
use moodify_core::{CallContext, Engine, IdempotencyKey, RunId};
use moodify_k8s::Kube;
use tokio_util::sync::CancellationToken;

use crate::args::{Global, Output, Resume, Run, Speed};
use crate::backends::{self, Settings};
use crate::exit::{Exit, Stop};
use crate::plan::Loaded;
use crate::runs;
use crate::show::{Header, Screen, choose, how_to_resume};
use crate::{runtime, signals, simulate};

/// Everything that a run is driven with.
struct Drive {
    journal: Arc<dyn JournalStore>,
    backends: Backends,
    clock: Arc<dyn Clock>,
    speed: Speed,
    output: Output,
    progress: bool,
    header: Header,
    /// Where to find the run again; none if it ends with this process.
    resumable: Option<Option<PathBuf>>,
}

pub(crate) fn run(args: &Run, global: &Global) -> Result<Exit, Stop> {
    let mut loaded = Loaded::read(&args.plan)?;
    let output = choose(global.output);
    if !args.simulation.simulate {
        return runtime()?.block_on(real(args, global, &loaded, output));
    }
    Settings::read(&loaded.source)?;
    simulate::mark(&mut loaded.plan, &args.simulation);
    let watched = output == Output::Progress;
    let speed = args.simulation.speed.unwrap_or(if watched { Speed::Times(120.0) } else { Speed::Max });
    let runtime = simulate::runtime().map_err(|e| Stop::refused(format!("the runtime cannot start: {e}")))?;
    runtime.block_on(async {
        let (backends, clock) = simulate::world(&loaded.plan, &args.simulation)?;
        loaded.check(&backends).await?;
        let journal: Arc<dyn JournalStore> = match &global.journal {
            Some(dir) => Arc::new(FileJournal::open(dir)?),
            None => Arc::new(MemoryJournal::new()),
        };
        let world = match speed {
            Speed::Max => "simulated".to_owned(),
            Speed::Times(times) => format!("simulated, {times} times as fast"),
        };
        let header = Header { plan: Arc::new(loaded.plan.clone()), world: Some(world) };
        let drive = Drive { journal, backends, clock, speed, output, progress: args.progress, header, resumable: None };
        drive.begin(&args.who.name()).await
    })
}

async fn real(args: &Run, global: &Global, loaded: &Loaded, output: Output) -> Result<Exit, Stop> {
    let settings = Settings::read(&loaded.source)?;
    let (backends, kube) = settings.open().await.map_err(|errors| backends::placed(&loaded.source, errors))?;
    loaded.check(&backends).await?;
    preflight(&kube, loaded).await?;
    let journal = Arc::new(FileJournal::open(runs::directory(global))?);
    let header = Header { plan: Arc::new(loaded.plan.clone()), world: None };
    let drive = Drive {
        journal,
        backends,
        clock: Arc::new(SystemClock),
        speed: Speed::Max,
        output,
        progress: args.progress,
        header,
        resumable: Some(global.journal.clone()),
    };
    drive.begin(&args.who.name()).await
}

/// Whether the release could begin in this cluster.
pub(crate) async fn preflight(kube: &Kube, loaded: &Loaded) -> Result<(), Stop> {
    let problems = kube.preflight(&check_context(), &loaded.plan.targets()).await;
    if problems.is_empty() { Ok(()) } else { Err(Stop::before(&problems)) }
}

/// The context of calls that are made before there is a run.
pub(crate) fn check_context() -> CallContext {
    let run = RunId::generate(SystemClock.now());
    CallContext::new(run, IdempotencyKey::new("check"), std::time::Duration::from_secs(60))
}

pub(crate) fn resume(args: &Resume, global: &Global) -> Result<Exit, Stop> {
    runtime()?.block_on(async {
        let journal = runs::open(global)?;
        let run = runs::choose(&journal, args.run.clone()).await?;
        let state = runs::state(&journal, &run).await?;
        if let Some((outcome, summary)) = &state.ended {
            return Err(Stop::invalid(format!("{run} is over ({outcome}): {summary}")));
        }
        if simulate::is_simulated(&state.plan) {
            let message = format!("{run} was simulated: its world ended with its process; run the plan again instead");
            return Err(Stop::invalid(message));
        }
        let settings = Settings::of_run(&state.plan)?;
        let (backends, _) = settings.open().await.map_err(|errors| Stop::before(&errors))?;
        let drive = Drive {
            journal: Arc::new(journal),
            backends,
            clock: Arc::new(SystemClock),
            speed: Speed::Max,
            output: choose(global.output),
            progress: args.progress,
            header: Header { plan: state.plan.clone(), world: None },
            resumable: Some(global.journal.clone()),
        };
        drive.go_on(&run).await
    })
}

impl Drive {
    fn open(&self) -> (Engine, Screen) {
        let screen = Screen::open(self.output, self.progress, self.header.clone(), self.clock.clone());
        let backends = backends::with_console(self.backends.clone(), screen.notifier());
        let engine = Engine::new(self.journal.clone(), backends)
            .with_registry(Registry::with_builtins())
            .with_clock(self.clock.clone());
        (engine, screen)
    }

    async fn begin(self, by: &str) -> Result<Exit, Stop> {
        let (engine, screen) = self.open();
        let shown = screen.follow(engine.subscribe());
        match engine.create(&self.header.plan, by).await {
            Ok(run) => self.finish(engine, screen, shown, &run).await,
            Err(e) => {
                screen.close(String::new());
                Err(e.into())
            }
        }
    }

    async fn go_on(self, run: &RunId) -> Result<Exit, Stop> {
        let (engine, screen) = self.open();
        for event in engine.events(run, 1).await? {
            screen.past(event);
        }
        let shown = screen.follow(engine.subscribe());
        self.finish(engine, screen, shown, run).await
    }

    async fn finish(
        self,
        engine: Engine,
        screen: Screen,
        shown: tokio::task::JoinHandle<()>,
        run: &RunId,
    ) -> Result<Exit, Stop> {
        let stop = CancellationToken::new();
        let result = tokio::select! {
            result = engine.drive(run, &stop) => result,
            () = signals::watch(stop.clone()) => Ok(Ending::Interrupted),
            () = simulate::pace(self.speed) => Ok(Ending::Interrupted),
        };
        // The audience leaves when the engine is gone.
        drop(engine);
        let _ = shown.await;
        let words = match (&result, &self.resumable) {
            (Ok(Ending::Interrupted), Some(journal)) => {
                format!("interrupted; {}", how_to_resume(run, journal.as_deref()))
            }
            (Ok(Ending::Interrupted), None) => "interrupted; a simulated world ends with its process".to_owned(),
            _ => String::new(),
        };
        screen.close(words);
        match result {
            Ok(ending) => Ok(Exit::from(&ending)),
            Err(e) => Err(Stop::during(&e)),
        }
    }
}
