//! `undo`: a completed run taken back by a run of its own.

use crate::args::{Global, Undo};
use crate::backends::Settings;
use crate::exit::{Exit, Stop};
use crate::preflight::preflight;
use crate::run::Drive;
use crate::show::choose;
use crate::{runs, runtime, simulate};

pub(crate) fn undo(args: &Undo, global: &Global) -> Result<Exit, Stop> {
    let simulation = &args.simulation;
    let runtime = if simulation.simulate { simulate::runtime() } else { Ok(runtime()?) };
    let runtime = runtime.map_err(|e| Stop::refused(format!("the runtime cannot start: {e}")))?;
    runtime.block_on(async {
        let journal = runs::open(global).await?;
        let state = runs::state(&journal, &args.run).await?;
        let run = &args.run;
        match (simulate::is_simulated(&state.plan), simulation.simulate) {
            (true, false) => Err(Stop::invalid(format!(
                "{run} was simulated: its world ended with its process, and there is nothing to take back; \
                     --simulate takes it back in a new simulated world, in which its release serves"
            ))),
            (false, true) => Err(Stop::invalid(format!(
                "{run} was not simulated: to take it back, leave --simulate out; to rehearse it, simulate the \
                     plan with --journal, and undo that run"
            ))),
            (true, true) => {
                let (backends, clock) = simulate::world_after(&state, simulation)?;
                let output = choose(global.output);
                let drive = Drive {
                    clock,
                    speed: simulate::speed(simulation, output, false),
                    simulated: true,
                    ..Drive::real(journal, backends, output, args.progress, global)
                };
                begin(drive, args).await
            }
            (false, false) => {
                let settings = Settings::of_run(&state.plan)?;
                let opened = settings.open().await.map_err(|errors| Stop::before(&errors))?;
                preflight(&opened.kube, &state.plan).await?;
                begin(Drive::real(journal, opened.backends, choose(global.output), args.progress, global), args).await
            }
        }
    })
}

async fn begin(drive: Drive, args: &Undo) -> Result<Exit, Stop> {
    drive.begin(async |engine| engine.undo(&args.run, &args.who.name(), &args.reason).await).await
}
