//! Ends the process from any thread. Timely is fail-stop: a process that cannot continue takes its generation of the cluster
//! with it, so there is nothing to unwind, and no caller to return an error to.

use protocol::Temporary;
use telemetry::report::Ending;

/// Ends the process for a reason that is final. The job fails.
pub fn fail(reason: impl std::fmt::Display) -> ! {
    tracing::error!("{reason}");
    end_process(Ending::Failed(reason.to_string()), 1)
}

/// Ends the process, and with it this generation of the cluster, for a temporary reason. When the process is restarted, it
/// joins the next generation.
pub fn leave_generation(reason: impl std::fmt::Display) -> ! {
    tracing::error!("{reason}");
    end_process(Ending::Leaving(reason.to_string()), process::exit::TEMPORARY)
}

/// Ends the process for this error, which is [`Temporary`] or final.
pub fn end(error: &anyhow::Error) -> ! {
    let reason = format_args!("{error:#}");
    if error.is::<Temporary>() { leave_generation(reason) } else { fail(reason) }
}

fn end_process(ending: Ending, code: u8) -> ! {
    telemetry::reporter::end(ending);
    std::process::exit(code.into())
}
