//! Options in make's form: `NAME=VALUE` after the command.

use std::ffi::OsString;

use clap::ArgMatches;
use clap::error::ErrorKind;
use clap::parser::ValueSource;

/// Turns each `NAME=VALUE` after the command into the flag of that name, or the flag that reads the environment variable of
/// that name.
///
/// # Errors
/// If the command does not accept the name; the message lists the names that it accepts.
pub(crate) fn from_make(
    words: impl Iterator<Item = OsString>,
    commands: &clap::Command,
) -> Result<Vec<OsString>, clap::Error> {
    let mut words: Vec<_> = words.collect();
    let Some(command) = words.get(1).and_then(|name| commands.find_subcommand(name)) else {
        return Ok(words);
    };
    let mut is_value = false;
    for word in words.iter_mut().skip(2) {
        // A word that is not UTF-8 is not one of our variables; it may be a path.
        let Some(text) = word.to_str() else { continue };
        // What follows -- is not for us.
        if text == "--" {
            break;
        }
        // The value of the flag before it may look like anything.
        if std::mem::take(&mut is_value) {
            continue;
        }
        is_value = takes_next_word(command, text);
        let Some((name, value)) = text.split_once('=').filter(|(name, _)| is_variable(name)) else {
            continue;
        };
        let Some(flag) = command.get_arguments().find(|arg| names(arg).any(|n| n == name)) else {
            let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
            let names: Vec<_> = shown.filter_map(|arg| names(arg).next()).collect();
            let words =
                format!("{} does not accept {name}; it accepts {}", command.get_name(), names.join(", "));
            return Err(clap::Error::raw(ErrorKind::UnknownArgument, format!("{words}\n")));
        };
        *word = format!("--{}={value}", flag.get_long().unwrap_or_default()).into();
    }
    Ok(words)
}

/// Whether this is a flag whose value is the next word.
fn takes_next_word(command: &clap::Command, word: &str) -> bool {
    let flag = word.strip_prefix("--").filter(|flag| !flag.contains('='));
    let flag = flag.and_then(|flag| command.get_arguments().find(|arg| longs(arg).any(|long| long == flag)));
    flag.is_some_and(|flag| flag.get_action().takes_values() && !flag.is_require_equals_set())
}

/// The variable names of a flag: the environment variable that it reads, and its own names in upper case.
fn names(arg: &clap::Arg) -> impl Iterator<Item = String> {
    let variable = arg.get_env().and_then(|name| name.to_str()).map(str::to_owned);
    let own: Vec<_> = longs(arg).map(|long| long.to_ascii_uppercase().replace('-', "_")).collect();
    variable.into_iter().chain(own)
}

/// The long names of a flag.
fn longs(arg: &clap::Arg) -> impl Iterator<Item = &str> {
    arg.get_long().into_iter().chain(arg.get_all_aliases().into_iter().flatten())
}

/// The flags that a resumed job accepts: where it is, and what does not decide its results.
const OF_RESUMED: [&str; 7] =
    ["resume", "inventory", "workers", "load_timeout", "model_timeout", "model_memory", "max_rejects"];
const OF_ATTACHED: [&str; 2] = ["attach", "inventory"];

/// Parses the words. A job that is resumed or attached to accepts few options; others are refused, not ignored. For such a
/// job, the environment variables of options do not count.
///
/// # Errors
/// If a word is not valid, or not accepted for such a job.
pub(crate) fn matches(command: clap::Command, words: &[OsString]) -> Result<ArgMatches, clap::Error> {
    let matches = command.clone().try_get_matches_from(words)?;
    let of_earlier_job = |matches: &ArgMatches| {
        let job = matches.subcommand_matches("run-cluster")?;
        let is_given = |flag: &str| job.get_flag(flag);
        is_given("resume")
            .then_some(("resume", &OF_RESUMED[..]))
            .or(is_given("attach").then_some(("attach", &OF_ATTACHED[..])))
    };
    let Some((flag, accepted)) = of_earlier_job(&matches) else { return Ok(matches) };
    let mut command = command.mut_subcommand("run-cluster", |job| job.mut_args(|arg| arg.env(None::<&str>)));
    let matches = command.try_get_matches_from_mut(words)?;
    let (Some(job), Some(known)) =
        (matches.subcommand_matches("run-cluster"), command.find_subcommand("run-cluster"))
    else {
        return Ok(matches);
    };
    let is_given = |id: &str| job.value_source(id) == Some(ValueSource::CommandLine);
    let refused = known.get_arguments().filter(|arg| {
        let id = arg.get_id().as_str();
        job.try_contains_id(id).unwrap_or(false) && is_given(id) && !accepted.contains(&id)
    });
    let refused: Vec<_> = refused.filter_map(|arg| Some(format!("--{}", arg.get_long()?))).collect();
    if refused.is_empty() {
        return Ok(matches);
    }
    let advice = match flag {
        "resume" => {
            "a resumed job keeps what decides its results; to change that, start a new job without --resume"
        }
        _ => "a running job keeps the options that it was started with",
    };
    let words = format!("--{flag} does not accept {}: {advice}\n", refused.join(", "));
    Err(clap::Error::raw(ErrorKind::ArgumentConflict, words))
}

fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Arg, Command};

    fn translate(words: &[&str]) -> Result<Vec<OsString>, clap::Error> {
        let command = Command::new("run")
            .arg(Arg::new("lines").long("input-lines"))
            .arg(Arg::new("workers").long("workers").env("N_WORKERS"))
            .arg(Arg::new("classifier").long("classifier").alias("model"));
        let words = ["xtask"].iter().chain(words).map(|word| (*word).into());
        from_make(words, &Command::new("xtask").subcommand(command))
    }

    #[test]
    fn variables_become_flags() {
        assert_eq!(
            translate(&["run", "INPUT_LINES=100", "--workers=2", "N_WORKERS=", "WORKERS=7"]).unwrap(),
            ["xtask", "run", "--input-lines=100", "--workers=2", "--workers=", "--workers=7"]
        );
        let model = ["run", "--model", "N_WORKERS=7", "MODEL=native"];
        assert_eq!(
            translate(&model).unwrap(),
            ["xtask", "run", "--model", "N_WORKERS=7", "--classifier=native"]
        );
        let input = ["run", "--input-lines", "DATA=1.csv", "N_WORKERS=2"];
        assert_eq!(
            translate(&input).unwrap(),
            ["xtask", "run", "--input-lines", "DATA=1.csv", "--workers=2"]
        );
        assert_eq!(translate(&["run", "--", "A=b"]).unwrap(), ["xtask", "run", "--", "A=b"]);
        assert_eq!(translate(&["other", "A=b", "c=d"]).unwrap(), ["xtask", "other", "A=b", "c=d"]);
    }

    #[test]
    fn an_unknown_variable_is_an_error() {
        let error = translate(&["run", "LINES=100"]).unwrap_err().to_string();
        assert!(
            error.contains("run does not accept LINES; it accepts INPUT_LINES, N_WORKERS, CLASSIFIER\n"),
            "{error}"
        );
    }

    fn parse(words: &[&str]) -> Result<ArgMatches, String> {
        let command = crate::command();
        let words = ["xtask", "run-cluster"].iter().chain(words).map(Into::into);
        let words = from_make(words, &command).map_err(|error| error.to_string())?;
        matches(command, &words).map_err(|error| error.to_string())
    }

    #[test]
    fn an_earlier_job_accepts_only_options_that_do_not_decide_its_results() {
        for (flag, accepted) in [("--resume", &OF_RESUMED[..]), ("--attach", &OF_ATTACHED[..])] {
            let command = crate::command();
            let job = command.find_subcommand("run-cluster").unwrap();
            let options = job
                .get_arguments()
                .filter(|arg| !["resume", "attach", "help", "version"].contains(&arg.get_id().as_str()));
            for option in options {
                let long = option.get_long().unwrap();
                let word = if option.get_action().takes_values() {
                    format!("--{long}=1")
                } else {
                    format!("--{long}")
                };
                let outcome = parse(&[flag, &word]);
                match accepted.contains(&option.get_id().as_str()) {
                    true => assert!(outcome.is_ok(), "{flag} {word}: {outcome:?}"),
                    // For some options 1 is not a valid value, so the error may have either cause.
                    false => assert!(outcome.is_err(), "{flag} {word}"),
                }
            }
            let error = parse(&[flag, "--chunk-size=7", "INPUT_LINES=9"]).unwrap_err();
            assert!(
                error.contains(&format!("{flag} does not accept --input-lines, --chunk-size")),
                "{error}"
            );
        }
        assert!(parse(&["--resume", "--attach"]).is_err());
        assert!(parse(&["--chunk-size=7", "INPUT_LINES=9", "--workers=3"]).is_ok());
    }
}
