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

/// Starts a helper when it is loaded, and waits at row 2,000 until a file is there.
const WAITING: &str = "import os, subprocess, time
with open('loads.txt', 'a') as loads:
    loads.write('x')
HELPER = subprocess.Popen(['sleep', '1000'], stdin=-3, stdout=-3, stderr=-3)
def f(df):
    while df['id'].iloc[-1] >= 2000 and not os.path.exists('go'):
        time.sleep(0.01)
    os.kill(HELPER.pid, 0)
    return df['id'] * 2
";

#[test]
fn a_restarted_classifier_takes_over_processes_that_have_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let rows: String = (0..4000).map(|i| format!("{i}\n")).collect();
    std::fs::write(path("in.csv"), format!("id\n{rows}")).unwrap();
    std::fs::write(path("waiting.py"), WAITING).unwrap();
    let expected: String = (0..4000).map(|i| format!("{i},{}\n", 2 * i)).collect();
    let is_of_job = |line: &str| line.contains(folder.path().to_str().unwrap());
    let log = |name: &str| std::fs::read_to_string(path("log").join(name)).unwrap_or_default();
    for (method, loads) in [("auto", "xx"), ("spawn", "xxxx")] {
        for left in ["loads.txt", "go"] {
            let _ = std::fs::remove_file(path(left));
        }
        let _ = std::fs::remove_dir_all(path("log"));
        let mut command = tests::xtask();
        command.args(["run-locally", "--no-hub", "--input", "in.csv", "--model", "waiting.py:f"]);
        command.args(["--chunk-size", "50", "--processes", "2", "--workers", "4", "--start-method", method]);
        command.current_dir(&folder).arg("--python").arg(tests::python());
        command.arg("--output").arg(path(method)).arg("--log").arg(path("log"));
        let mut xtask = Program::start_command("xtask", folder.path(), command);
        for (killed, restarted) in [("worker1", "initializer"), ("initializer", "worker1")] {
            // Both work, and later both have taken over what they had.
            let takeovers = |name: &str| log(name).matches("still has the model").count();
            let before = takeovers(&format!("{killed}.log")) + takeovers(&format!("{restarted}.log"));
            let generations = || log("initializer.log").matches("the generation begins").count();
            tests::eventually("a generation", || (generations() > 0).then_some(()));
            let (generation, ready) = (generations(), path(&format!("log/run/{killed}.ready")));
            let is_it = |line: &str| line.contains("classifier") && line.contains(ready.to_str().unwrap());
            let (pid, _) = tests::command_lines_of(is_it).into_iter().next().unwrap();
            kill(pid);
            tests::eventually("the next generation", || (generations() > generation).then_some(()));
            let all = if method == "auto" { 2 } else { 4 };
            let after = || takeovers(&format!("{killed}.log")) + takeovers(&format!("{restarted}.log"));
            tests::eventually("the takeovers", || (after() >= before + all).then_some(()));
        }
        std::fs::write(path("go"), "").unwrap();
        let said = xtask.success();
        assert!(said.contains("initializer on this machine died") && said.contains("rejected   0"), "{said}");
        let results = std::fs::read_to_string(path(method).join("results.csv")).unwrap();
        assert!(results == format!("id,CLASSIFICATION\n{expected}"), "{method}");
        assert_eq!(std::fs::read_to_string(path("loads.txt")).unwrap(), loads, "{method}");
        tests::eventually("all programs to end", || {
            tests::command_lines_of(is_of_job).is_empty().then_some(())
        });
    }
}
