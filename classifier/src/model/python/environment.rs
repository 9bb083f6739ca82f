//! Sets the environment of a Python process: the user's, except for variables that must be equal on all hosts.

use std::process::Command;

use super::Settings;

/// These set how many threads libraries use. Arrow and PyTorch follow OpenMP's variable.
const THREADS: [&str; 14] = [
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "GOTO_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMEXPR_MAX_THREADS",
    "NUMBA_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "LOKY_MAX_CPU_COUNT",
];
/// These would let libraries choose their number of threads themselves.
const ADJUSTMENTS: [&str; 2] = ["OMP_DYNAMIC", "MKL_DYNAMIC"];
/// These would take precedence over the variables above.
const REMOVED: [&str; 4] = ["OMP_THREAD_LIMIT", "MKL_DOMAIN_NUM_THREADS", "BLIS_JC_NT", "BLIS_IC_NT"];

/// Sets the environment of a Python process.
pub(super) fn prepare(command: &mut Command, settings: &Settings) {
    command.env("CLASSIFIER_SLOWNESS", settings.slowness.to_string());
    // It is meant for this program, and not for programs that the user's function may start.
    command.env_remove(process::lifeline::LIFELINE).env_remove(process::lifeline::KEPT);
    // Otherwise a set of strings would have another order in each process.
    command.env("PYTHONHASHSEED", "0");
    // Numbers of threads that differ by host would change the last bits of results.
    for name in THREADS {
        command.env(name, settings.threads.to_string());
    }
    for name in ADJUSTMENTS {
        command.env(name, "FALSE");
    }
    for name in REMOVED {
        command.env_remove(name);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use super::*;

    #[test]
    fn thread_counts_are_set_and_variables_that_would_interfere_are_removed() {
        let settings = Settings {
            interpreter: "python3".into(),
            module: "m".into(),
            contract: crate::model::Contract::Of2018("f".into()),
            slowness: 10,
            threads: 3,
            copied: crate::model::Copied::All,
            start_method: crate::model::StartMethod::Auto,
            load_timeout: Duration::from_secs(60),
            timeout: Duration::from_secs(60),
            memory: 1000,
        };
        let mut command = Command::new("python3");
        command.envs([("EXIT_WITH_STDIN", "watched"), ("KEPT_BY_SUPERVISOR", "1")]);
        command.envs([("OMP_NUM_THREADS", "7"), ("OMP_THREAD_LIMIT", "1")]);
        prepare(&mut command, &settings);
        let text = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
        let set: HashMap<_, _> =
            command.get_envs().map(|(name, value)| (text(name), value.map(text))).collect();
        for name in THREADS {
            assert_eq!(set[name].as_deref(), Some("3"), "{name}");
        }
        for name in ["EXIT_WITH_STDIN", "KEPT_BY_SUPERVISOR", "OMP_THREAD_LIMIT", "MKL_DOMAIN_NUM_THREADS"] {
            assert_eq!(set[name], None, "{name}");
        }
    }
}
