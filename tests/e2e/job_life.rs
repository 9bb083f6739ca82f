//! The life of a job on this machine: it goes on after whatever has killed it, is done once, and its results are published when
//! they are complete.

use std::path::PathBuf;
use std::process::Command;

use tests::cluster::read_results;
use tests::eventually;
use tests::program::Program;

/// Classifies rows, and notes which. Waits before the rows for which the test has not opened the gate.
const NOTING: &str = "import os, time
def f(df):
    while df['id'].iloc[-1] >= int(open(os.environ['GATE']).read() or 0):
        time.sleep(0.01)
    with open(os.environ['NOTES'], 'a') as notes:
        notes.writelines(f'{row}\\n' for row in df['id'])
    return df['id'] * 2
";
const ROWS: usize = 4000;

/// A folder with an input, a model, and the results of jobs.
struct Site(tempfile::TempDir);

impl Site {
    fn new(model: &str) -> Self {
        let site = Self(tempfile::tempdir().unwrap());
        site.write("in.csv", &input(0..ROWS));
        site.write("model/model.py", model);
        site.open_gate(ROWS + 1);
        site
    }

    /// Lets the model classify the rows before this one.
    fn open_gate(&self, row: usize) {
        // In one step, since the model may be reading.
        self.write("gate.new", &row.to_string());
        std::fs::rename(self.path("gate.new"), self.path("gate")).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = tests::xtask();
        command.args(["run-locally", "--no-hub", "--input", "in.csv", "--model", "model/model.py:f"]);
        command.args(["--chunk-size", "10", "--workers", "2", "--output", "out", "--log", "log"]).args(args);
        command
            .current_dir(&self.0)
            .env("NOTES", self.path("notes"))
            .env("GATE", self.path("gate"))
            .arg("--python")
            .arg(tests::python());
        command
    }

    fn start(&self, args: &[&str]) -> Program {
        Program::start_command("xtask", self.0.path(), self.command(args))
    }

    /// The folders of jobs.
    fn jobs(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.path("out/jobs")).into_iter().flatten().flatten();
        let mut jobs: Vec<_> = entries.map(|entry| entry.path()).collect();
        jobs.sort_unstable();
        jobs
    }

    /// Waits until the job that began last has this many durable rows.
    fn await_durable(&self, rows: usize) {
        let durable = |job: &PathBuf| {
            let checkpoint = std::fs::read(job.join("results.checkpoint")).ok()?;
            Some(protocol::checkpoint::slots(&checkpoint).first()?.position.next_row as usize)
        };
        eventually("rows", || (self.jobs().iter().filter_map(durable).max()? >= rows).then_some(()));
    }

    /// Kills all processes of the job at once.
    fn kill_all(&self, xtask: &mut Program) {
        // The command first, since it would restart the others.
        xtask.signal("KILL");
        for (pid, _) in tests::command_lines_of(|words| words.contains("log/run/")) {
            let is_here = |cwd: PathBuf| cwd.starts_with(&self.0);
            if std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(is_here) {
                // It may have ended already.
                let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
            }
        }
        xtask.wait();
    }
}

fn input(rows: std::ops::Range<usize>) -> String {
    let rows: String = rows.map(|row| format!("{row}\n")).collect();
    format!("id\n{rows}")
}

fn results(rows: std::ops::Range<usize>, factor: usize) -> String {
    let rows: String = rows.map(|row| format!("{row},{}\n", row * factor)).collect();
    format!("id,CLASSIFICATION\n{rows}")
}

#[test]
fn the_same_command_goes_on_after_everything_was_killed() {
    let site = Site::new(NOTING);
    for kill in 1..=3 {
        site.open_gate(kill * ROWS / 4);
        let mut job = site.start(&[]);
        site.await_durable(kill * ROWS / 4 - ROWS / 8);
        site.kill_all(&mut job);
        assert!(!site.path("out/results.csv").exists());
    }
    site.open_gate(ROWS);
    let said = site.start(&[]).success();
    assert!(said.contains("going on with the job of ") && said.contains("(durable: "), "{said}");
    assert!(site.read("out/results.csv") == results(0..ROWS, 2));
    assert_eq!(site.jobs().len(), 1);
    // What is done twice is at most what was not durable yet.
    let classified = site.read("notes").lines().count();
    assert!(classified < 2 * ROWS, "{classified}");

    let said = site.start(&[]).success();
    assert!(said.contains("already done: ") && said.contains("rows out   4,000"), "{said}");
    assert_eq!(site.read("notes").lines().count(), classified);
    // With more processes it is the same job.
    assert!(site.start(&["--processes", "2"]).success().contains("already done: "));
    let said = site.start(&["--again"]).success();
    assert!(
        !said.contains("already done: ") && site.read("notes").lines().count() >= classified + ROWS,
        "{said}"
    );
    assert_eq!(site.jobs().len(), 1);
    assert!(site.read("out/results.csv") == results(0..ROWS, 2));
}

#[test]
fn an_interrupted_job_says_how_it_goes_on_and_a_changed_model_starts_over() {
    let site = Site::new(NOTING);
    site.open_gate(ROWS / 2);
    let mut job = site.start(&[]);
    site.await_durable(ROWS / 4);
    job.signal("INT");
    let said = job.exit(130);
    site.open_gate(ROWS);
    assert!(
        said.contains("durable: ")
            && said.contains(" rows, in out/jobs/")
            && said.contains("the same command goes on there"),
        "{said}"
    );
    site.write("model/model.py", &NOTING.replace("* 2", "* 3"));
    let said = site.start(&[]).success();
    assert!(said.contains("starting over: the job of ") && said.contains("model/model.py"), "{said}");
    assert!(site.read("out/results.csv") == results(0..ROWS, 3));
    // The first model's job is still there, and goes on.
    site.write("model/model.py", NOTING);
    let said = site.start(&[]).success();
    assert!(said.contains("going on with the job of "), "{said}");
    assert!(site.read("out/results.csv") == results(0..ROWS, 2));
    // The other one is done, and is published again.
    site.write("model/model.py", &NOTING.replace("* 2", "* 3"));
    assert!(site.start(&[]).success().contains("already done: "));
    assert!(site.read("out/results.csv") == results(0..ROWS, 3));
    let mut list = tests::xtask();
    list.current_dir(&site.0).args(["jobs", "--output", "out"]);
    let said = Program::start_command("xtask", site.0.path(), list).success();
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    assert!(
        lines[1].starts_with("* 20") && lines[1].contains("4,000") && lines[1].contains("done"),
        "{said}"
    );
    assert!(lines[2].starts_with("  20") && lines[2].contains("python:model:f, rows from in.csv"), "{said}");
    let said = site.start(&["--again", "--keep", "1"]).success();
    assert!(said.contains("1 old job removed"), "{said}");
    assert_eq!(site.jobs().len(), 1);
}

#[test]
fn a_model_that_changes_while_its_job_runs_is_run_again() {
    let site = Site::new(NOTING);
    site.open_gate(ROWS / 2);
    let mut job = site.start(&[]);
    site.await_durable(ROWS / 4);
    site.write("model/words.txt", "new");
    site.open_gate(ROWS);
    let said = job.success();
    assert!(said.contains("changed while the job ran: ") && said.contains("model/words.txt"), "{said}");
    std::fs::remove_file(site.path("model/words.txt")).unwrap();
    assert!(!site.start(&[]).success().contains("already done: "));
    assert!(site.start(&[]).success().contains("already done: "));
    // get-results puts plain files in the place of the links.
    std::fs::remove_file(site.path("out/results.csv")).unwrap();
    site.write("out/results.csv", "of hosts");
    assert!(site.start(&[]).success().contains("already done: "));
    assert!(site.read("out/results.csv") == results(0..ROWS, 2));
}

#[test]
fn a_failed_job_keeps_the_last_results_and_starts_over() {
    let site = Site::new("def f(df):\n    return df['id'] * 2\n");
    site.start(&[]).success();
    site.write("in.csv", &input(0..ROWS + 1));
    // It fails for a reason outside of what the job's id covers.
    let failing = "import os\ndef f(df):\n    if not os.path.exists(os.environ['NOTES']):\n        raise KeyError('no service')\n    \
                   return df['id'] * 3\n";
    site.write("model/model.py", failing);
    let said = site.start(&["--notify", "cat > failed.json"]).exit(1);
    assert!(said.contains("the same command starts over"), "{said}");
    assert!(said.contains("out/results.csv is still that of the last complete job"), "{said}");
    assert!(site.read("out/results.csv") == results(0..ROWS, 2));
    let ending: serde_json::Value = serde_json::from_str(&site.read("failed.json")).unwrap();
    assert_eq!((&ending["state"], &ending["exit_code"]), (&"failed".into(), &1.into()), "{ending}");
    assert!(ending["error"].as_str().unwrap().contains("the first"), "{ending}");
    site.write("notes", "");
    let said = site.start(&["--notify", "cat > done.json; exit 7"]).success();
    assert!(said.contains("--notify: \"cat > done.json; exit 7\" failed (exit status: 7)"), "{said}");
    let ending: serde_json::Value = serde_json::from_str(&site.read("done.json")).unwrap();
    assert_eq!(
        (&ending["state"], &ending["summary"]["rows"]),
        (&"done".into(), &(ROWS + 1).into()),
        "{ending}"
    );
    assert!(site.read("out/results.csv") == results(0..ROWS + 1, 3));
    assert_eq!(site.jobs().len(), 2);
    assert_eq!(read_results(&site.path("out/results.csv")).summary.rejects, 0);
}

#[test]
fn two_jobs_in_a_folder_never_overlap() {
    let site = Site::new(NOTING);
    site.open_gate(ROWS / 2);
    let mut first = site.start(&[]);
    site.await_durable(1);
    let said = site.start(&["--fresh"]).exit(4);
    assert!(said.contains("is already running"), "{said}");
    let said = site.start(&["--fresh", "--wait=1s"]).exit(4);
    assert!(said.contains("waiting, since another job"), "{said}");
    let mut waiting = site.start(&["--wait"]);
    waiting.await_output("waiting, since another job");
    site.open_gate(ROWS);
    let said = waiting.success();
    assert!(said.contains("already done: "), "{said}");
    assert!(first.success().contains("rows out   4,000"));
}

/// A full disk does not last, and the job goes on once there is room.
#[test]
fn a_job_goes_on_after_a_full_disk() {
    let site = Site::new(NOTING);
    let probe = Command::new("unshare").args(["--mount", "true"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        tests::skip("a_job_goes_on_after_a_full_disk", "mounting a file system needs root");
        return;
    }
    let job = site.command(&[]);
    let script = "mkdir out; mount -t tmpfs -o size=64k none out && ! \"$@\" && mount -o remount,size=16m out && \"$@\" && \
                  cp out/results.csv copy.csv";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(job.get_program()).args(job.get_args());
    for (name, value) in job.get_envs() {
        command.env(name, value.unwrap());
    }
    command.current_dir(&site.0);
    let said = Program::start_command("unshare", site.0.path(), command).success();
    assert!(
        said.contains("No space left on device") && said.contains("the same command goes on there"),
        "{said}"
    );
    assert!(said.contains("going on with the job of "), "{said}");
    assert!(site.read("copy.csv") == results(0..ROWS, 2));
}

#[test]
fn the_units_of_the_example_are_valid() {
    let units =
        ["classify.service", "classify.timer"].map(|unit| tests::root().join("examples/systemd").join(unit));
    let folder = tempfile::tempdir().unwrap();
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--user", "--man=no"]).args(units).env("XDG_RUNTIME_DIR", folder.path());
    let Ok(output) = verify.output() else {
        tests::skip("the_units_of_the_example_are_valid", "there is no systemd-analyze");
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    // The cargo of the example may not be there.
    let complaints =
        said.lines().filter(|line| line.contains("classify.") && !line.contains("is not executable"));
    assert_eq!(complaints.collect::<Vec<_>>(), [""; 0]);
}

/// The rows of an hour, which differ from those of other hours. Some take three seconds.
fn rows_of(hour: usize) -> String {
    let rows = if [3, 9].contains(&hour) { 20_000 } else { 1000 };
    let rows: String = (0..rows).map(|row| format!("{hour}.{row}\n")).collect();
    format!("id\n{rows}")
}

#[test]
fn a_day_of_hourly_jobs_always_has_the_last_complete_results() {
    let site = Site(tempfile::tempdir().unwrap());
    let start = |args: &[&str]| {
        let mut command = tests::xtask();
        command.args(["run-locally", "--no-hub", "--input", "in.csv", "--workers", "2", "--keep", "4"]);
        command.args(["--output", "out", "--log", "log"]).args(args).current_dir(&site.0);
        Program::start_command("xtask", site.0.path(), command)
    };
    let hourly = || start(&["--model", "sleep:300"]);
    // As a program that writes a file under another name, and renames it.
    let arrive = |hour: usize| {
        site.write("in.new", &rows_of(hour));
        std::fs::rename(site.path("in.new"), site.path("in.csv")).unwrap();
    };
    let published = || site.read("out/results.log");
    let of =
        |hour: usize| -> String { rows_of(hour).lines().skip(1).map(|row| format!("{row},0.0\n")).collect() };
    for hour in 0..24 {
        let before = published();
        if hour == 6 {
            // The file is late.
            std::fs::remove_file(site.path("in.csv")).unwrap();
            assert!(hourly().exit(3).contains("opening the input in.csv"));
            assert!(published() == before);
        }
        arrive(hour);
        match hour {
            3 => {
                // The machine goes down.
                let mut job = hourly();
                site.await_durable(100);
                site.kill_all(&mut job);
                assert!(published() == before);
                assert!(hourly().success().contains("going on with the job of "));
            }
            9 => {
                // The last hour's job takes longer than an hour.
                let mut job = hourly();
                site.await_durable(100);
                // It does not end meanwhile.
                job.signal("STOP");
                assert!(hourly().exit(4).contains("is already running"));
                assert!(published() == before);
                job.signal("CONT");
                job.success();
            }
            12 => {
                // The file is not complete yet.
                site.write("in.csv", "");
                assert!(hourly().exit(3).contains("in.csv is empty"));
                assert!(published() == before);
                arrive(hour);
                hourly().success();
            }
            // Nothing has arrived since: the job is done.
            15 => {
                hourly().success();
                assert!(hourly().success().contains("already done: "));
            }
            _ => drop(hourly().success()),
        }
        assert!(published() == of(hour), "hour {hour}");
    }
    // Another model.
    start(&["--model", "native"]).success();
    assert!(published() != of(23) && published().starts_with("23.0,0."));
    let jobs = site.jobs();
    assert!(jobs.len() <= 4, "{jobs:?}");
    let left: Vec<_> =
        std::fs::read_dir(site.path("out")).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(
        left.len(),
        [".lock", "jobs", "latest", "results.json", "results.log", "results.rejects.csv"].len(),
        "{left:?}"
    );
}
