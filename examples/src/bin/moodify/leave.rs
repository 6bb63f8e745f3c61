//! `leave`: what takes turns becomes one plain workload again.

use crate::args::{Global, Leave};
use crate::backends::{self, Settings};
use crate::exit::{Exit, Stop};
use crate::plan::Loaded;
use crate::run::Drive;
use crate::show::choose;
use crate::{runs, runtime};

pub(crate) fn leave(args: &Leave, global: &Global) -> Result<Exit, Stop> {
    let loaded = Loaded::read(&args.plan)?;
    runtime()?.block_on(async {
        let settings = Settings::read(&loaded.source)?;
        let opened = settings.open().await.map_err(|errors| backends::placed(&loaded.source, errors))?;
        loaded.check(&opened.backends).await?;
        let journal = runs::make(global).await?;
        let drive = Drive::real(journal, opened.backends, choose(global.output), args.progress, global);
        drive.begin(async |engine| engine.leave(&loaded.plan, &args.who.name(), &args.reason).await).await
    })
}
