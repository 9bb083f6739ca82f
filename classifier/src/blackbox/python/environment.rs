//! The environment of a Python process: what the user has set, and what must be the same on all hosts.

use std::process::Command;

use super::Settings;

/// By these, libraries are told how many threads to use. Arrow and PyTorch take OpenMP's number.
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
/// By these, they would use other numbers than they are told.
const ADJUSTMENTS: [&str; 2] = ["OMP_DYNAMIC", "MKL_DYNAMIC"];
/// These would take precedence.
const REMOVED: [&str; 4] = ["OMP_THREAD_LIMIT", "MKL_DOMAIN_NUM_THREADS", "BLIS_JC_NT", "BLIS_IC_NT"];

/// Gives a command the environment of a Python process.
pub(super) fn prepare(command: &mut Command, settings: &Settings) {
    command.env("CLASSIFIER_SLOWNESS", settings.slowness.to_string());
    // It is for this program, and not for what the user's function may start.
    command.env_remove(wire::program::LIFELINE);
    // Sets of strings would have another order in each process.
    if std::env::var_os("PYTHONHASHSEED").is_none() {
        command.env("PYTHONHASHSEED", "0");
    }
    // The user's own numbers differ by host, and the last bits of results with them.
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
