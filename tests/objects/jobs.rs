//! Jobs on this machine read objects and upload their results; whatever dies, each object is whole or not there, and nothing
//! stays open.

use std::process::Command;
use std::time::Duration;

use tests::eventually;
use tests::program::Program;

use crate::client::Client;
use crate::server::{Effect, Fault, Point};
use crate::site::{PLAIN, Site, UPLOAD, long_rows};

const MAKE: &str = "
import gzip, pandas, zstandard
text = open('a 1+é.csv', 'rb').read()
open('a.csv.gz', 'wb').write(gzip.compress(text))
open('a.csv.zst', 'wb').write(zstandard.compress(text))
pandas.read_csv('a 1+é.csv').to_parquet('a.parquet', index=False)
";

fn python(site: &Site, script: &str) {
    let made = Command::new(tests::python()).args(["-c", script]).current_dir(site.path("")).status();
    assert!(made.unwrap().success());
}

#[test]
fn objects_give_the_results_of_the_files() {
    let site = Site::new();
    let rows: String = (0..5000).map(|row| format!("{row},text {row}\n")).collect();
    site.put("a 1+é.csv", &format!("id,text\n{rows}"));
    python(&site, MAKE);
    for name in ["a.csv.gz", "a.csv.zst", "a.parquet"] {
        site.bucket.put(name, &std::fs::read(site.path(name)).unwrap());
    }
    site.job(&["a 1+é.csv"], &["--model", "native"]).success();
    let expected = site.result("results.log");
    for name in ["a 1+é.csv", "a.csv.gz", "a.csv.zst", "a.parquet"] {
        let address = format!("s3://data/{name}");
        let said = site.job(&[&address], &["--model", "native"]).success();
        assert!(said.contains(&format!("rows from {address} on ")), "{said}");
        assert!(site.result("results.log") == expected, "{name}");
        let again = site.job(&[&address], &["--model", "native"]).success();
        assert!(again.contains("already done: "), "{again}");
    }
    // A folder is all objects in it, in natural order.
    for (name, text) in
        [("10.csv", "id\n3\n"), ("9.csv", "id\n2\n"), ("sub/1.csv", "x\n9\n"), ("_SUCCESS", "")]
    {
        site.bucket.put(&format!("folder/{name}"), text.as_bytes());
    }
    std::fs::write(site.path("1.csv"), "id\n1\n").unwrap();
    site.job(&["1.csv", "s3://data/folder/"], &["--model", "native"]).success();
    (0..1001).for_each(|place| drop(site.bucket.put(&format!("many/{place}.csv"), b"id\n")));
    let mut list = Command::new(tests::s3_path());
    list.args(["list", "s3://data/many/"]);
    site.server.apply_to(&mut list);
    let listed = String::from_utf8(list.output().unwrap().stdout).unwrap();
    // They are more than a page.
    assert_eq!(listed.lines().count(), 1001);
    let ids: Vec<_> = site
        .result("results.log")
        .split(|byte| *byte == b'\n')
        .filter_map(|row| row.first().copied())
        .collect();
    assert_eq!(ids, b"123");
}

#[test]
fn results_are_uploaded_in_each_form_and_appear_together() {
    let site = Site::new();
    site.put("in.csv", "id,x\n1,2\n2,wrong,3\n3,4\n");
    let forms: [(&[&str], [&str; 3]); 4] = [
        (&[], PLAIN),
        (&["--format", "gz"], ["results.log.gz", "results.rejects.csv.gz", "results.json"]),
        (&["--format", "zst"], ["results.log.zst", "results.rejects.csv.zst", "results.json"]),
        (&["--format", "parquet"], ["results.parquet", "results.rejects.parquet", "results.json"]),
    ];
    for (form, names) in forms {
        let paused =
            site.server.on(Fault::new(Effect::Pause(Point::Arrived)).method("POST").with("uploadId="));
        let mut job =
            site.job(&["s3://data/in.csv"], &[form, &["--model", "native", "--upload", UPLOAD]].concat());
        paused.wait_in(&mut job, 1);
        // No signature is in the list of processes.
        assert_eq!(tests::command_lines().filter(|line| line.contains("X-Amz-Signature")).count(), 0);
        // All parts are there, and nothing is seen of them.
        assert_eq!((site.server.open_uploads(), site.uploaded(names[0])), (3, None));
        paused.end();
        paused.release();
        let said = job.success();
        assert!(
            said.contains(&format!("uploaded   {UPLOAD}{}, with rejects and results.json", names[0])),
            "{said}"
        );
        for name in names {
            assert!(site.uploaded(name).unwrap() == site.result(name), "{name}");
            assert!(site.bucket.head(&format!("results/{name}")).unwrap().metadata.contains_key("job"));
        }
        assert_eq!(site.server.open_uploads(), 0);
    }
    // No credentials are where the programs look for signed requests.
    let secret = &site.server.environment()[2].1;
    let log = Command::new("grep").args(["-r", secret]).arg(site.path("")).output().unwrap();
    assert_eq!(String::from_utf8(log.stdout).unwrap(), "");
    assert!(!site.path("log/run/signed.json").exists());
}

#[test]
fn a_job_that_is_killed_goes_on_with_its_uploads() {
    let site = Site::new();
    site.put("in.csv", &long_rows());
    let options = ["--model", "native", "--upload", UPLOAD];
    // In the middle of a part; before the results are completed; and after that, before it is known.
    let moments = [
        Fault::new(Effect::Pause(Point::Received(1 << 20))).with("results.log?").with("partNumber=2&"),
        Fault::new(Effect::Pause(Point::Arrived)).method("POST").with("results.log?").with("uploadId="),
        Fault::new(Effect::Pause(Point::Performed)).method("POST").with("results.json?").with("uploadId="),
    ];
    for moment in moments {
        let paused = site.server.on(moment.times(1));
        let mut job = site.job(&["in.csv"], &options);
        paused.wait_in(&mut job, 1);
        site.kill_all(&mut job);
        paused.release();
    }
    let said = site.job(&["in.csv"], &options).success();
    assert!(said.contains("rows out   200,000"), "{said}");
    for name in PLAIN {
        assert!(site.uploaded(name).unwrap() == site.result(name), "{name}");
    }
    assert_eq!(site.server.open_uploads(), 0);
    // Only what was on its way is sent again.
    let sent = site.parts_sent("results.log");
    assert!(sent.len() == 3 && sent.iter().all(|times| (1..=2).contains(times)), "{sent:?}");
    assert!(sent.contains(&1), "{sent:?}");
    let again = site.job(&["in.csv"], &options).success();
    assert!(again.contains("already done: "), "{again}");
}

#[test]
fn uploads_of_a_job_that_does_not_complete_are_aborted() {
    let site = Site::new();
    site.put("in.csv", "id,x\n1,2\n2,wrong,3\n3,4\n");
    let options = ["--model", "native", "--upload", UPLOAD];
    site.job(&["in.csv"], &options).success();
    let before = site.uploaded("results.json").unwrap();
    let begun =
        || site.server.requests().iter().filter(|request| request.query.contains_key("uploads")).count();
    // A job that fails.
    let said = site.job(&["in.csv"], &[&options[..], &["--max-rejects", "0"]].concat()).exit(1);
    assert!(said.contains("1 of "), "{said}");
    assert_eq!((begun(), site.server.open_uploads()), (6, 0));
    // A job that starts over after it was killed.
    site.put("in.csv", "id,x\n5,6\n");
    let paused =
        site.server.on(Fault::new(Effect::Pause(Point::Arrived)).method("POST").with("uploadId=").times(1));
    let mut job = site.job(&["in.csv"], &options);
    paused.wait_in(&mut job, 1);
    site.kill_all(&mut job);
    paused.release();
    eventually("open uploads", || (site.server.open_uploads() == 2).then_some(()));
    assert!(site.uploaded("results.json").unwrap() == before);
    site.job(&["in.csv"], &[&options[..], &["--again"]].concat()).success();
    assert_eq!(site.server.open_uploads(), 0);
    assert!(site.uploaded("results.json").unwrap() == site.result("results.json"));
    // A job whose upload another program has aborted.
    site.put("in.csv", "id,x\n7,8\n");
    let aborted =
        site.server.on(Fault::new(Effect::Pause(Point::Arrived)).method("POST").with("uploadId=").times(1));
    let mut job = site.job(&["in.csv"], &options);
    aborted.wait_in(&mut job, 1);
    let client = Client::new(&site.server, "data");
    let last = site.server.requests().into_iter().rfind(|request| request.part().is_some()).unwrap();
    let key = last.path.trim_start_matches("/data/");
    assert_eq!(client.abort(key, &last.query["uploadId"]).status(), 204);
    aborted.release();
    assert!(job.exit(1).contains(
        "the upload was aborted elsewhere; the same command, or run-cluster --resume, begins another one"
    ));
    site.job(&["in.csv"], &options).success();
    assert!(site.uploaded("results.json").unwrap() == site.result("results.json"));
    assert_eq!(site.server.open_uploads(), 0);
    // An input is not replaced.
    site.bucket.put("results/results.log", b"id\n1\n");
    let said = site.job(&["s3://data/results/results.log"], &options).exit(3);
    assert!(said.contains("would be replaced by the results; upload them to another folder"), "{said}");
}

#[test]
fn what_passes_is_tried_again() {
    let site = Site::new();
    site.put("in.csv", &long_rows());
    let faults = [
        Fault::new(Effect::CutAfter(5_000_000)).method("GET"),
        Fault::new(Effect::SlowDown).with("partNumber=1&").times(2),
        Fault::new(Effect::Close).with("partNumber=2&").times(1),
        Fault::new(Effect::LoseAnswer).with("partNumber=3&").times(1),
        Fault::new(Effect::SlowDown).method("POST").times(1),
        Fault::new(Effect::LoseAnswer).method("POST").with("results.log?").with("uploadId=").times(1),
    ];
    let injected = faults.map(|fault| site.server.on(fault));
    site.job(&["s3://data/in.csv"], &["--model", "native", "--upload", UPLOAD]).success();
    let counts = injected.map(|fault| fault.count());
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    for name in PLAIN {
        assert!(site.uploaded(name).unwrap() == site.result(name), "{name}");
    }
    assert_eq!(site.server.open_uploads(), 0);
}

#[test]
fn what_lasts_is_said() {
    let site = Site::new();
    let text = long_rows();
    site.put("in.csv", &text);
    let read = |address: &str| site.job(&[address], &["--model", "native"]);
    assert!(
        read("s3://data/none.csv")
            .exit(3)
            .contains("reading s3://data/none.csv: the server answers 404 Not Found")
    );
    assert!(read("s3://nothing/").exit(3).contains("there is no bucket nothing"));
    // It is overwritten in the middle.
    let stalled = site.server.on(Fault::new(Effect::Pause(Point::Arrived)).method("GET").from(4));
    let mut job = read("s3://data/in.csv");
    stalled.wait_in(&mut job, 1);
    site.bucket.put("in.csv", text.replace("id,text", "id,next").as_bytes());
    stalled.end();
    stalled.release();
    let said = job.failure();
    assert!(said.contains("s3://data/in.csv") && said.contains("it has changed"), "{said}");
    site.put("in.csv", "id,x\n1,2\n");
    let expired = site.server.on(Fault::new(Effect::Expired).method("GET"));
    let said = read("s3://data/in.csv").exit(3);
    assert!(
        said.contains("reading s3://data/in.csv: the server answers 403 Forbidden: Request has expired"),
        "{said}"
    );
    expired.end();
    // Other keys, and none.
    let mut command = site.command(&["s3://data/in.csv"], &["--model", "native"]);
    command.env("AWS_SECRET_ACCESS_KEY", "wrong");
    let said = Program::start_command("xtask", &site.path(""), command).exit(3);
    assert!(said.contains("403 Forbidden"), "{said}");
    let mut command = site.command(&["s3://data/in.csv"], &["--model", "native"]);
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    let said = Program::start_command("xtask", &site.path(""), command).exit(3);
    assert!(said.contains("there are no credentials"), "{said}");
    let mut command = tests::xtask();
    command.args(["run-locally", "--output", "s3://data/"]).current_dir(site.path(""));
    let said = Program::start_command("xtask", &site.path(""), command).exit(3);
    assert!(said.contains("--upload s3://BUCKET/FOLDER/ uploads the results"), "{said}");
    assert!(
        site.job(&["in.csv"], &["--model", "native", "--upload", "data/"])
            .exit(2)
            .contains("give s3://BUCKET/FOLDER/")
    );
}

#[test]
fn signatures_are_renewed_while_a_job_runs() {
    let site = Site::new();
    let rows: String = (0..100_000).map(|row| format!("{row},x\n")).collect();
    site.put("in.csv", &format!("id,x\n{rows}"));
    // A session of 62 seconds, as an hour of a real one.
    let [_, (_, access), (_, secret), ..] = site.server.environment();
    let script = format!(
        "printf '{{\"Version\":1,\"AccessKeyId\":\"{access}\",\"SecretAccessKey\":\"{secret}\",\"Expiration\":\"%s\"}}' \
         $(date -u -d '62 seconds' +%Y-%m-%dT%H:%M:%SZ)\n"
    );
    std::fs::write(site.path("credentials.sh"), script).unwrap();
    let profile = format!("[default]\ncredential_process = sh {}\n", site.path("credentials.sh").display());
    std::fs::write(site.path("config"), profile).unwrap();
    let mut command = site.command(
        &["s3://data/in.csv"],
        &["--model", "sleep:1400", "--upload", UPLOAD, "--chunk-size", "500"],
    );
    command
        .env_remove("AWS_ACCESS_KEY_ID")
        .env_remove("AWS_SECRET_ACCESS_KEY")
        .env_remove("AWS_SESSION_TOKEN");
    command.env("AWS_CONFIG_FILE", site.path("config"));
    let mut job = Program::start_command("xtask", &site.path(""), command);
    let said = job.success_within(Duration::from_secs(600));
    assert!(said.contains("the signatures for S3 end at "), "{said}");
    assert!(site.uploaded("results.log").unwrap() == site.result("results.log"));
}
