//! `cargo xtask up`, `run-cluster`, `get-results` and other commands, on hosts of a lab with real sshd, addresses and
//! faults.

use std::io::Read;
use std::process::Command;

use tests::cluster::Setup;
use tests::eventually;
use tests::stack::Stack;

#[test]
fn the_whole_job_on_five_hosts() {
    let Some(stack) = Stack::new("the_whole_job_on_five_hosts", "5") else { return };
    let said = stack.fail("run-cluster", &[]);
    assert!(said.contains("make them ready with: cargo xtask up"), "{said}");
    let said = stack.up(&["CLUSTER_SIZE=4"]);
    assert!(said.contains("shipped to 5 of 5 hosts"), "{said}");
    // A second up changes nothing, and keeps the cluster's size.
    let said = stack.run("up", &[]);
    assert!(said.contains("5 hosts have the application already"), "{said}");

    let said = stack.run("run-cluster", &["INPUT_LINES=100000"]);
    assert!(said.contains("100,000 fake rows, on 28 workers (4 machines of 7), through native"), "{said}");
    let native = Setup::default().run(["--lines", "100000"]);
    assert!(said.contains(&format!("sha256     {}", native.summary.sha256)), "{said}");
    assert!(stack.results() == native.log);

    let json = stack.run("status", &["--json"]);
    let status: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(status[0]["role"], "metrics");
    assert_eq!(status[0]["status"]["summary"]["rows"], 100_000);
    assert_eq!(status[4]["status"]["programs"][0]["name"], "worker3");
    assert!(status[1]["status"]["disk_free"].as_u64().unwrap() > 0);
    let said = stack.run("logs", &["h2"]);
    assert!(
        said.contains("classifier: 4 processes of 7 workers") && said.contains("worker=initializer"),
        "{said}"
    );
    let said = stack.run("ssh", &["h3", "--", "hostname"]);
    assert!(said.ends_with("h3\n"), "{said}");

    // A smaller cluster, a file, and rejects. up clears the hosts that are no longer used.
    let said = stack.up(&["--cluster-size", "1"]);
    assert!(said.contains("2 hosts have the application already"), "{said}");
    // sshd's process for a connection ends a moment after the connection.
    eventually("the other hosts to be empty", || {
        stack.traces().iter().all(|trace| trace.starts_with("h1") || trace.starts_with("h2")).then_some(())
    });
    std::fs::write(stack.path("in.csv"), "A,B\n1,2\n3\n4,\"5\n6\"\n").unwrap();
    let said = stack.run("run-cluster", &["--input", "in.csv", "--model", "native", "--workers", "2"]);
    assert!(said.contains("rows from in.csv, on 2 workers (1 machines of 2)"), "{said}");
    assert!(said.contains("rows in    3\nrows out   2\nrejected   1\n"), "{said}");
    stack.down();
}

#[test]
fn hosts_with_faults_are_named_and_a_second_try_works() {
    let Some(stack) = Stack::new("hosts_with_faults_are_named_and_a_second_try_works", "3") else { return };
    let file = std::fs::read_to_string(stack.hosts_file()).unwrap();
    let up_with = |name: &str, text: String| {
        std::fs::write(stack.path(name), text).unwrap();
        stack.fail("up", &["--hosts", name])
    };
    let addresses = stack.lab.values("address");
    let print = &stack.lab.values("fingerprint")[1];
    let said = up_with("key.toml", file.replace(print, "SHA256:0000000000000000000000000000000000000000000"));
    assert!(said.contains("connecting to h2"), "{said}");
    assert!(said.contains("its host key differs") && said.contains(print), "{said}");
    let h3 = format!("address = \"{}\"", addresses[2]);
    let said = up_with("refuses.toml", file.replace(&h3, &format!("{h3}\nport = 23")));
    assert!(said.contains("connecting to h3") && said.contains("Connection refused"), "{said}");
    let said = up_with("user.toml", file.replace("\"root\"", "\"nobody\""));
    assert!(said.contains("3 of 3 hosts failed") && said.contains("it refuses this user and key"), "{said}");
    let said = up_with("size.toml", file.replace("name = \"h3\"", "name = \"h2\""));
    assert!(said.contains("have the name h2"), "{said}");
    let said = stack.fail("up", &["--hosts", &stack.hosts_file(), "CLUSTER_SIZE=3"]);
    assert!(said.contains("CLUSTER_SIZE=3 needs 4 hosts"), "{said}");

    // A full disk.
    stack.up(&["--cluster-size", "1"]);
    let on_h3 = |script: &str| {
        let known = stack.path("inventory.known_hosts/h3.known_hosts");
        let output = stack.lab.ssh(&addresses[2], &known, script);
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    };
    on_h3("mkdir ~/.provisioned-classifier && mount -t tmpfs -o size=500k none ~/.provisioned-classifier");
    let said = stack.fail("up", &["--cluster-size", "2"]);
    assert!(said.contains("on h3") && said.contains("its disk is full"), "{said}");
    eventually("its disk to be unmounted", || {
        // The SFTP server of the failed upload may have the file open for another moment.
        let known = stack.path("inventory.known_hosts/h3.known_hosts");
        let output = stack.lab.ssh(&addresses[2], &known, "umount ~/.provisioned-classifier");
        output.status.success().then_some(())
    });

    // A host is lost during shipping. Its cable is slow, so that there is time for that.
    let cable = format!("{}3", stack.lab.bridge());
    let ip = |words: &str| {
        assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success(), "ip {words}");
    };
    let shaped = Command::new("tc")
        .args([
            "qdisc", "add", "dev", &cable, "root", "tbf", "rate", "4mbit", "burst", "32k", "latency", "400ms",
        ])
        .status();
    if shaped.is_ok_and(|status| status.success()) {
        let mut up = stack.start("up", &["--cluster-size", "2"]);
        eventually("h3 to get something", || {
            let folder = stack.lab.folder().join("h3/home/.provisioned-classifier");
            let mut parts = std::fs::read_dir(folder).ok()?.flatten();
            parts.find(|entry| entry.metadata().is_ok_and(|file| file.len() > 100_000)).map(drop)
        });
        ip(&format!("link set {cable} down"));
        let said = up.failure();
        assert!(said.contains("on h3"), "{said}");
        ip(&format!("link set {cable} up"));
        assert!(Command::new("tc").args(["qdisc", "del", "dev", &cable, "root"]).status().unwrap().success());
    }
    stack.run("up", &["--cluster-size", "2"]);

    // A port is in use.
    let squatter = format!(
        "python3 -c \"import socket,time; s=socket.socket(); s.bind(('{}',12600)); s.listen(); time.sleep(1000)\" \
         >/dev/null 2>&1 & echo $!",
        addresses[2]
    );
    let known = stack.path("inventory.known_hosts/h3.known_hosts");
    let pid = String::from_utf8(stack.lab.ssh(&addresses[2], &known, &squatter).stdout).unwrap();
    // Its interpreter takes a moment to start.
    let listens =
        "python3 -c \"import socket,sys; s=socket.socket(); sys.exit(s.connect_ex((sys.argv[1],12600)))\"";
    eventually("the port to be taken", || {
        let output = stack.lab.ssh(&addresses[2], &known, &format!("{listens} {}", addresses[2]));
        output.status.success().then_some(())
    });
    let said = stack.fail("run-cluster", &["INPUT_LINES=1000"]);
    assert!(said.contains("worker1 on h3 failed"), "{said}");
    assert!(said.contains(&format!("listening for data connections at {}:12600", addresses[2])), "{said}");
    assert!(said.contains("another program has this port"), "{said}");
    on_h3(&format!("kill {pid}"));

    // A host is lost during the job.
    let mut job = stack.start("run-cluster", &["INPUT_LINES=200000", "--classifier", "sleep:1000"]);
    let results = stack.lab.folder().join("h1/home/.provisioned-classifier/output/results.log");
    eventually("results", || std::fs::metadata(&results).is_ok_and(|file| file.len() > 0).then_some(()));
    ip(&format!("link set {cable} down"));
    // The job continues without the host, and with it again when it is back.
    job.await_output("lost the agent of h3");
    let log = stack.lab.folder().join("h2/home/.provisioned-classifier/log/initializer.log");
    let says = |words: &str| std::fs::read_to_string(&log).unwrap_or_default().contains(words).then_some(());
    eventually("the cluster without it", || says("1 of 2 processes are not back"));
    let said = stack.fail("status", &[]);
    assert!(said.contains("cannot be reached: connecting to h3"), "{said}");
    ip(&format!("link set {cable} up"));
    job.await_output("h3 is back");
    eventually("the cluster with it", || says("makes way for a generation with classifier worker1"));
    let said = job.success();
    let alone = Setup::default().args(["--classifier", "sleep:1"]).run(["--lines", "200000"]);
    assert!(said.contains(&format!("sha256     {}", alone.summary.sha256)), "{said}");
    stack.down();
}

#[test]
fn a_second_job_is_refused_while_an_unwatched_one_runs() {
    let Some(stack) = Stack::new("a_second_job_is_refused_while_an_unwatched_one_runs", "2") else { return };
    stack.up(&[]);
    let slow = ["INPUT_LINES=1000000", "--classifier", "sleep:1000"];
    let mut first = stack.start("run-cluster", &slow);
    let results = stack.lab.folder().join("h1/home/.provisioned-classifier/output/results.log");
    let has_results = || std::fs::metadata(&results).is_ok_and(|file| file.len() > 0).then_some(());
    eventually("results", has_results);
    let said = stack.fail("run-cluster", &slow);
    assert!(said.contains("h1 is commanded by"), "{said}");
    assert!(said.contains(&format!("with cargo xtask run-cluster (process {})", first.pid())), "{said}");
    let said = stack.fail("get-results", &["--output", "out"]);
    assert!(said.contains("has no results of a job that is done; one is running"), "{said}");
    let said = stack.fail("down", &[]);
    assert!(said.contains("h1 is commanded by") && said.contains("--force"), "{said}");

    // The job survives the command that started it.
    first.signal("KILL");
    first.wait();
    let refused = eventually("the hosts to notice", || {
        let said = stack.fail("run-cluster", &slow);
        (!said.contains("is commanded by")).then_some(said)
    });
    assert!(refused.contains("a job has been running on the hosts for "), "{refused}");
    // A second terminal attaches, and leaves.
    let mut viewer = stack.start("run-cluster", &["--attach"]);
    viewer.await_output("rows/s");
    viewer.signal("INT");
    let said = viewer.failure();
    assert!(said.contains("the job continues; cargo xtask run-cluster --attach shows it again"), "{said}");
    for (command, args) in [("down", vec![]), ("up", vec!["--classifier", "sleep:7", "--cluster-size", "1"])]
    {
        // The second command changes nothing on the hosts, and is allowed.
        let said = if command == "down" { stack.fail(command, &args) } else { stack.run(command, &args) };
        assert_eq!(command == "down", said.contains("a job is running on h1 (receiver, sender)"), "{said}");
    }
    let said = stack.run("stop", &[]);
    assert!(said.contains("stopped; ") && said.contains("rows are durable"), "{said}");

    // Ctrl-C ends all of it.
    let mut job = stack.start("run-cluster", &slow);
    // From then on, the results are those of this job.
    job.await_output("fake rows, on 7 workers");
    eventually("results", has_results);
    job.signal("INT");
    let said = job.failure();
    assert!(said.contains("interrupted: all programs of the job have ended"), "{said}");
    let json = stack.run("status", &["--json"]);
    let status: serde_json::Value = serde_json::from_str(&json[json.find('[').unwrap()..]).unwrap();
    for host in status.as_array().unwrap() {
        for program in host["status"]["programs"].as_array().unwrap() {
            // The hub keeps running.
            assert_eq!(program["running"].is_null(), program["name"] != "hub", "{json}");
        }
    }

    // The next job starts afresh.
    let said = stack.run("run-cluster", &["INPUT_LINES=1000", "--classifier", "native"]);
    assert!(said.contains("rows out   1,000"), "{said}");
    // An interrupted fetch continues.
    let mut archive = Vec::new();
    let remote = stack.lab.folder().join("h1/home/.provisioned-classifier/output/results.tgz");
    std::fs::File::open(&remote).unwrap().read_to_end(&mut archive).unwrap();
    let summary: serde_json::Value =
        serde_json::from_slice(&std::fs::read(remote.with_file_name("results.json")).unwrap()).unwrap();
    let text = |key: &str| summary[key].as_str().unwrap().to_owned();
    let key = protocol::hash::short_hex(format!("{} {}", text("sha256"), text("ended")).as_bytes());
    std::fs::create_dir(stack.path("out")).unwrap();
    let part = stack.path("out").join(format!("results.{key}.part"));
    std::fs::write(&part, &archive[..archive.len() / 2]).unwrap();
    let said = stack.run("get-results", &["--output", stack.path("out").to_str().unwrap()]);
    assert!(said.contains("continuing at"), "{said}");
    // A damaged part is removed, so the next fetch succeeds.
    std::fs::write(&part, vec![b'x'; archive.len() / 2]).unwrap();
    let said = stack.fail("get-results", &["--output", stack.path("out").to_str().unwrap()]);
    assert!(
        said.contains("the fetched archive is damaged or not this job's, and is removed; fetch it again"),
        "{said}"
    );
    stack.results();
    let fetched = std::fs::read(stack.path("out/results.tgz")).unwrap();
    assert!(fetched == archive);
    stack.down();
}

#[test]
fn down_finds_everything_that_up_has_left() {
    let Some(stack) = Stack::new("down_finds_everything_that_up_has_left", "3") else { return };
    let file = std::fs::read_to_string(stack.hosts_file()).unwrap();
    // up fails after it has shipped something.
    std::fs::create_dir(stack.path("models")).unwrap();
    std::fs::write(stack.path("models/broken.py"), "1 / 0\n").unwrap();
    std::fs::write(stack.path("models/requirements.txt"), "# nothing\n").unwrap();
    let said = stack.fail("up", &["--hosts", &stack.hosts_file(), "--classifier", "python:models.broken"]);
    assert!(said.contains("has no pandas"), "{said}");
    let said = stack.fail("run-cluster", &[]);
    assert!(said.contains("the last cargo xtask up did not complete; run it again"), "{said}");
    stack.down();

    // up recognizes a host under another name.
    stack.up(&[]);
    std::fs::write(stack.path("renamed.toml"), file.replace("\"h3\"", "\"w3\"")).unwrap();
    let said = stack.run("up", &["--hosts", "renamed.toml"]);
    assert!(said.contains("3 hosts have the application already"), "{said}");
    stack.run("run-cluster", &["INPUT_LINES=100"]);

    // A host that is no longer used but cannot be reached is not forgotten.
    let ip = |state: &str| stack.lab.set_link("h3", state);
    ip("down");
    let said = stack.run("up", &["--cluster-size", "1"]);
    assert!(said.contains("is not cleared, since it cannot be reached") && said.contains("w3"), "{said}");
    ip("up");
    let said = stack.fail("up", &["--hosts", &stack.hosts_file(), "--ssh-config", "/no/such/file"]);
    assert!(said.contains("ssh cannot resolve how to connect"), "{said}");
    std::fs::write(stack.path("wrong.toml"), format!("{file}private_address = \"192.0.2.1\"\n")).unwrap();
    let said = stack.fail("up", &["--hosts", "wrong.toml", "CLUSTER_SIZE=2"]);
    assert!(said.contains("on h3") && said.contains("192.0.2.1 is not an address of this host"), "{said}");
    stack.down();
}

#[test]
fn results_and_jobs_survive_mistakes() {
    let Some(stack) = Stack::new("results_and_jobs_survive_mistakes", "2") else { return };
    let model_of = |folder: &str, score: u32| {
        std::fs::create_dir(stack.path(folder)).unwrap();
        let text = format!("def classify_df(df):\n    df['CLASSIFICATION'] = '{score}'\n    return df\n");
        std::fs::write(stack.path(folder).join("scores.py"), text).unwrap();
    };
    stack.up(&[]);
    stack.run("run-cluster", &["INPUT_LINES=5000"]);
    // A job that cannot start does not remove the results of the job before.
    std::fs::write(stack.path("empty.csv"), "").unwrap();
    let said = stack.fail("run-cluster", &["--classifier", "slep:5"]);
    assert!(said.contains("slep:5"), "{said}");
    let said = stack.fail("run-cluster", &["--input", "empty.csv", "--model", "native"]);
    assert!(said.contains("empty.csv is empty"), "{said}");
    assert_eq!(stack.results().iter().filter(|byte| **byte == b'\n').count(), 5000);

    // An `up` that is refused leaves everything as it was.
    let mut job = stack.start("run-cluster", &["INPUT_LINES=1000000", "--classifier", "sleep:1000"]);
    job.await_output("fake rows, on 7 workers");
    let said = stack.fail("up", &[]);
    assert!(said.contains("h1 is commanded by"), "{said}");
    let said = stack.run("stop", &[]);
    assert!(said.contains("stopped; ") && said.contains("until the next run-cluster"), "{said}");
    job.failure();
    let said = stack.fail("get-results", &[]);
    assert!(said.contains("the last one did not complete; what was received is in"), "{said}");

    // Another folder's model is not used by mistake, and a folder's name may contain any character.
    model_of("ours", 1);
    model_of("other's 100% model", 2);
    let other = stack.path("other's 100% model");
    let at = |inventory: &str| ["--inventory".to_owned(), other.join(inventory).display().to_string()];
    let [flag, inventory] = at("inventory.toml");
    let hosts = stack.hosts_file();
    stack.run_in("ours", "up", &["--hosts", &hosts, "--classifier", "python:scores"]);
    stack.run_in(
        "other's 100% model",
        "up",
        &["--hosts", &hosts, "--classifier", "python:scores", &flag, &inventory],
    );
    let said = stack.fail("run-cluster", &["INPUT_LINES=100"]);
    assert!(said.contains("has another application than the last cargo xtask up shipped"), "{said}");
    let said = stack.run("run-cluster", &["INPUT_LINES=100", "--workers", "1", &flag, &inventory]);
    assert!(said.contains("rows out   100"), "{said}");
    stack.down();
}

#[test]
fn a_lost_host_does_not_block_the_others() {
    let Some(stack) = Stack::new("a_lost_host_does_not_block_the_others", "3") else { return };
    stack.up(&[]);
    let mut job = stack.start("run-cluster", &["INPUT_LINES=1000000", "--classifier", "sleep:1000"]);
    let results = stack.lab.folder().join("h1/home/.provisioned-classifier/output/results.log");
    eventually("results", || std::fs::metadata(&results).is_ok_and(|file| file.len() > 0).then_some(()));
    job.signal("KILL");
    job.wait();
    stack.lab.set_link("h3", "down");
    let said = stack.fail("stop", &[]);
    assert!(said.contains("the job has ended, but not on all hosts") && said.contains("to h3"), "{said}");
    let said = stack.fail("down", &[]);
    assert!(said.contains("h1 has results of") && said.contains("rows that were not fetched"), "{said}");
    let said = stack.fail("down", &["--discard-results"]);
    assert!(said.contains("2 hosts are cleared, but not these") && said.contains("to h3"), "{said}");
    eventually("the others to be empty", || {
        stack.traces().iter().all(|trace| trace.starts_with("h3")).then_some(())
    });
    let said = stack.run("down", &["--force"]);
    assert!(said.contains("h3 is forgotten") && said.contains("left on 0 hosts"), "{said}");
    assert!(!stack.path("inventory.toml").exists());
}
