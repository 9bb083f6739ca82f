//! One process loads the model, and forks itself for each worker.

use std::path::Path;

use tests::cluster::{Cluster, Setup};
use tests::program::Program;

/// Prints a line whenever it is loaded, and returns the ids of the process and its parent.
const CODE: &str = "import os
print('loaded', flush=True)
def classify_df(df):
    df['CLASSIFICATION'] = '%d-%d' % (os.getpid(), os.getppid())
    return df
";

fn start(folder: &Path, code: &str, workers: usize, args: [&str; 2]) -> Cluster {
    let setup = Setup { workers, ..Setup::python(folder, code) };
    setup.args(["--chunk-size", "1"]).args(args).start()
}

fn loaded(cluster: &Cluster) -> usize {
    cluster.classifiers[0].output().matches("python: loaded").count()
}

/// A worker's process and its keeper.
fn ids(results: &str) -> (u32, u32) {
    let line = results.lines().next().unwrap();
    let (worker, keeper) = line.rsplit_once(',').unwrap().1.split_once('-').unwrap();
    (worker.parse().unwrap(), keeper.parse().unwrap())
}

fn parent(pid: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

fn kill(pid: u32) {
    assert!(std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
}

fn gone(pid: u32) {
    tests::eventually("a process to end", || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
}

#[test]
fn the_model_is_loaded_once_for_all_workers() {
    let folder = tempfile::tempdir().unwrap();
    for (method, times) in [("auto", 1), ("fork", 1), ("spawn", 3)] {
        let mut cluster = start(folder.path(), CODE, 3, ["--start-method", method]);
        cluster.sender(["--lines", "50"]).success();
        assert_eq!(loaded(&cluster), times, "{method}");
        assert_eq!(cluster.results().summary.rejects, 0);
    }
}

#[test]
fn a_model_that_cannot_be_forked_is_loaded_by_each_worker() {
    let folder = tempfile::tempdir().unwrap();
    for (hazard, why) in [
        (
            "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()",
            "started 1 threads",
        ),
        ("import socket\nconnection = socket.socket()", "opened a connection"),
        ("weights = open(__file__)", "model.py open"),
    ] {
        let code = format!("{hazard}\n{CODE}");
        let mut cluster = start(folder.path(), &code, 3, ["--start-method", "auto"]);
        cluster.sender(["--lines", "50"]).success();
        let said = cluster.classifiers[0].output();
        assert!(
            said.contains("each worker loads the model by itself, since the model has") && said.contains(why),
            "{said}"
        );
        assert_eq!(loaded(&cluster), 3);
        assert_eq!(cluster.results().summary.rejects, 0);
    }
}

#[test]
fn a_model_that_takes_too_long_to_load_is_killed() {
    let job = super::job::Job::new("import time\ntime.sleep(1000)\n").args(["--load-timeout", "1"]);
    let said = job.refusal();
    assert!(
        said.contains("took longer than 1s to load the model, and was killed; raise --load-timeout"),
        "{said}"
    );
    job.leaves_nothing();
}

/// Starts a job of one worker whose rows wait in a pipe, and waits for the first result.
fn begin(folder: &Path, cluster: &Cluster) -> (Program, std::fs::File, String) {
    let pipe = folder.join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let sender = cluster.sender([pipe.to_str().unwrap()]);
    let mut input = std::fs::File::options().write(true).open(&pipe).unwrap();
    std::io::Write::write_all(&mut input, b"A\n1\n").unwrap();
    let results = tests::eventually("the first result", || {
        let results = std::fs::read_to_string(cluster.path("results.log")).unwrap_or_default();
        (!results.is_empty()).then_some(results)
    });
    (sender, input, results)
}

#[test]
fn whatever_is_killed_no_row_is_lost() {
    // The worker's process, its keeper, the template, and its guard; and how often the model is loaded.
    for (generations, times) in [(0, 1), (1, 1), (2, 2), (3, 2)] {
        let folder = tempfile::tempdir().unwrap();
        let mut cluster = start(folder.path(), CODE, 1, ["--start-method", "auto"]);
        let (mut sender, mut input, results) = begin(folder.path(), &cluster);
        let (worker, keeper) = ids(&results);
        assert_eq!(parent(worker), keeper);
        let above = [worker, keeper, parent(keeper), parent(parent(keeper))];
        kill(above[generations]);
        gone(worker);
        std::io::Write::write_all(&mut input, b"2\n3\n").unwrap();
        drop(input);
        sender.success();
        assert_eq!(loaded(&cluster), times, "{generations} generations above the worker");
        let results = cluster.results();
        assert_eq!((results.summary.rows, results.summary.rejects), (3, 0));
        above.into_iter().for_each(gone);
    }
}
