//! Bad input gets a clear error, and loses nothing.

use std::process::Command;

use tests::cluster::Setup;
use tests::program::Program;

#[test]
fn bad_rows_are_rejected_and_all_others_classified() {
    let mut cluster = Setup::default().args(["--slowness", "0"]).start();
    let mut csv = b"ID,NAME\n0,ok\n1\n2,too,many\n\n4,\xff\xfe\n5,\"fine, too\"\n".to_vec();
    for i in 6..500 {
        csv.extend_from_slice(format!("{i},row\n").as_bytes());
    }
    std::fs::write(cluster.path("bad.csv"), csv).unwrap();
    cluster.sender([cluster.path("bad.csv").to_str().unwrap()]).success();
    let results = cluster.results();
    assert_eq!((results.summary.rows, results.summary.rejects), (500, 4));
    assert_eq!(
        results.rejects,
        "row,reason,record\n\
         1,1 values; the header has 2,1\n\
         2,3 values; the header has 2,\"2,too,many\"\n\
         3,an empty record,\n\
         4,not UTF-8 after byte 2,\"4,\u{fffd}\u{fffd}\"\n"
    );
    let log = String::from_utf8(results.log).unwrap();
    assert!(log.starts_with("0,ok,0.8894159948913373\n5,\"fine, too\",0.8894159948913373\n6,row,"));
    assert_eq!(log.lines().count(), 496);
    // What is rejected is there to the byte.
    assert!(std::fs::read(cluster.path("results.rejects.csv")).unwrap().ends_with(b"\"4,\xff\xfe\"\n"));
}

#[test]
fn a_header_only_is_a_job_of_no_rows() {
    for text in ["ID,NAME\n", "ID,NAME", "\u{feff}ID,NAME\r\n"] {
        let mut cluster = Setup::default().start();
        std::fs::write(cluster.path("header.csv"), text).unwrap();
        cluster.sender([cluster.path("header.csv").to_str().unwrap()]).success();
        let results = cluster.results();
        assert_eq!((results.summary.rows, results.summary.batches, results.log.len()), (0, 0, 0));
    }
}

#[test]
fn an_input_without_a_header_is_refused_before_anything_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.csv");
    let refused = |text: &[u8]| {
        std::fs::write(&path, text).unwrap();
        Program::start("sender", folder.path(), ["127.0.0.1:1", path.to_str().unwrap()]).failure()
    };
    assert!(refused(b"").contains("x.csv is empty; the first line must be a CSV header"));
    assert!(refused(b"\n1,2\n").contains("x.csv has no header: its first line is empty"));
    assert!(refused(b"\xff,b\n").contains("x.csv is not UTF-8"));
    assert!(refused(b"A,B\r1,2\r3,4\r").contains("x.csv has a carriage return in it"));
    let said = Program::start("sender", folder.path(), ["127.0.0.1:1", "/no/such/file"]).failure();
    assert!(said.contains("opening the input /no/such/file"), "{said}");
}

#[test]
fn an_open_quote_in_a_file_names_its_line() {
    let mut cluster = Setup::default().start();
    std::fs::write(cluster.path("open.csv"), "ID,NAME\n0,a\n1,\"open\n2,b\n").unwrap();
    let said = cluster.sender([cluster.path("open.csv").to_str().unwrap()]).failure();
    assert!(said.contains("the record that starts on line 3 ends inside quotes"), "{said}");
    assert!(cluster.classifiers[0].is_running(), "the cluster stays up");
}

#[test]
fn files_that_cannot_be_written_are_said_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["--listen", "127.0.0.1:0", "--output", "/no/such/folder/results.log"];
    let said = Program::start("receiver", folder.path(), args).failure();
    assert!(
        said.contains("the folder of the output /no/such/folder/results.log cannot be written"),
        "{said}"
    );
}

#[test]
fn a_full_disk_ends_the_job_with_the_path() {
    let allowed = Command::new("unshare").args(["--map-root-user", "--mount", "true"]).status();
    if !allowed.is_ok_and(|status| status.success()) {
        return tests::skip(
            "a_full_disk_ends_the_job_with_the_path",
            "this user may not mount a small file system",
        );
    }
    // A small file system that only the receiver sees.
    let script = r#"mkdir -p "$0" && mount -t tmpfs -o size=1m none "$0" && exec "$@""#;
    let mut cluster = Setup { receiver_in: Some(script), ..Setup::default() }.start();
    let said = cluster.sender(["--lines", "100000"]).failure();
    assert!(said.contains("No space left on device"), "{said}");
    let said = cluster.receiver.failure();
    assert!(said.contains("results.log") && said.contains("No space left on device"), "{said}");
    let said = cluster.classifiers[0].failure();
    assert!(
        said.contains("the receiver ended the job") && said.contains("No space left on device"),
        "{said}"
    );
}

#[test]
fn an_address_in_use_is_said_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = Program::start("receiver", folder.path(), ["--listen", &address]).failure();
    assert!(
        said.contains(&format!("listening for results at {address}: another program has this port")),
        "{said}"
    );
    let args = ["--cluster-initializer", "--in", &address, "--control", "127.0.0.1:0"];
    let said = Program::start("classifier", folder.path(), args).failure();
    assert!(
        said.contains(&format!("listening for rows at {address}: another program has this port")),
        "{said}"
    );
}

#[test]
fn outputs_never_replace_the_input_or_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("out.rejects.csv"), "A,B\n1,2\n").unwrap();
    let refused = |args: &[String]| Program::start("classifier", folder.path(), args).failure();
    let said = refused(&["file".into(), path("out.rejects.csv"), path("out.csv")]);
    assert!(said.contains("would be replaced by what is written to"), "{said}");
    let said = refused(&["file".into(), path("out.rejects.csv"), path("out.rejects.csv")]);
    assert!(said.contains("would be replaced by what is written to"), "{said}");
    assert_eq!(std::fs::read_to_string(path("out.rejects.csv")).unwrap(), "A,B\n1,2\n");
    let args = ["--listen", "127.0.0.1:0", "--output", "results.json"];
    let said = Program::start("receiver", folder.path(), args).failure();
    assert!(said.contains("the results cannot be named results.json"), "{said}");
}

#[test]
fn a_file_and_the_cluster_refuse_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.csv"), folder.path().join("out.csv"));
    for (text, reason) in [
        (&b"A\xff\n1\n"[..], "is not UTF-8"),
        (b"A\r1\r", "has a carriage return in it"),
        (b"A\n1\n\x04\n2\n", "row 1 of"),
    ] {
        std::fs::write(&input, text).unwrap();
        let args = ["file", input.to_str().unwrap(), output.to_str().unwrap()];
        let said = Program::start("classifier", folder.path(), args).failure();
        assert!(said.contains(reason), "{said}");
        let mut cluster = Setup::default().start();
        let said = cluster.sender([input.to_str().unwrap()]).failure();
        assert!(said.contains(reason), "{said}");
        assert!(cluster.classifiers[0].is_running());
    }
}

#[test]
fn strict_makes_a_reject_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.csv"), folder.path().join("out.csv"));
    std::fs::write(&input, "A,B\n1,2\n3\n").unwrap();
    let args = ["file", input.to_str().unwrap(), output.to_str().unwrap()];
    Program::start("classifier", folder.path(), args).success();
    assert_eq!(
        std::fs::read_to_string(folder.path().join("out.rejects.csv")).unwrap(),
        "row,reason,record\n1,1 values; the header has 2,3\n"
    );
    Program::start("classifier", folder.path(), args.iter().copied().chain(["--strict"])).failure();
}
