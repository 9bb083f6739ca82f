//! A host's agent, commanded over pipes in place of SSH.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use agent::protocol::{End, Event, Holder, Message, Program, Reply, Request, Status};
use tests::eventually;

/// A client, and the agent that it commands in a folder.
struct Client {
    child: Child,
    requests: Option<ChildStdin>,
    messages: Lines<BufReader<ChildStdout>>,
    events: Vec<Event>,
}

impl Client {
    fn new(folder: &Path) -> Self {
        let mut command = Command::new(tests::program_path("agent"));
        let command = command.arg("serve").current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let messages = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { requests: child.stdin.take(), child, messages, events: Vec::new() }
    }

    fn next(&mut self) -> Message {
        serde_json::from_str(&self.messages.next().unwrap().unwrap()).unwrap()
    }

    fn ask(&mut self, request: &Request) -> Result<Reply, String> {
        let mut line = serde_json::to_vec(request).unwrap();
        line.push(b'\n');
        self.requests.as_mut().unwrap().write_all(&line).unwrap();
        loop {
            match self.next() {
                Message::Done(reply) => return Ok(reply),
                Message::Failed(why) => return Err(why),
                Message::Event(event) => self.events.push(event),
            }
        }
    }

    /// Waits for an event.
    fn event(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        loop {
            if let Some(found) = self.events.iter().position(&wanted) {
                return self.events.remove(found);
            }
            match self.next() {
                Message::Event(event) => self.events.push(event),
                other => panic!("{other:?} is not an event"),
            }
        }
    }

    fn status(&mut self) -> Status {
        match self.ask(&Request::Status).unwrap() {
            Reply::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    fn stop(&mut self, grace_ms: u64) {
        assert_eq!(self.ask(&Request::Stop { name: None, spared: None, grace_ms }), Ok(Reply::Empty));
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // The agent ends when its standard input is closed.
        self.requests = None;
        let _ = self.child.wait();
    }
}

/// The request to start a shell script as a program.
fn script(name: &str, script: &str) -> Request {
    Request::Start(Program {
        name: name.into(),
        path: "app/sh".into(),
        args: vec!["-c".into(), script.into()],
        environment: BTreeMap::from([("GREETING".into(), "hello".into())]),
        ready_file: format!("run/{name}.ready"),
        restart: false,
    })
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("app")).unwrap();
    std::os::unix::fs::symlink("/bin/sh", folder.path().join("app/sh")).unwrap();
    folder
}

fn holder(who: &str) -> Request {
    Request::Lock(Holder { who: who.into(), since: "now".into() })
}

#[test]
fn programs_are_watched_and_outlive_their_client() {
    let folder = folder();
    let mut client = Client::new(folder.path());
    let ready = r#"echo "$GREETING"; printf '{"addresses":{"x":"127.0.0.1:7"}}' > run/a.ready; sleep 1000"#;
    client.ask(&script("a", ready)).unwrap();
    let event = client.event(|event| matches!(event, Event::Ready { .. }));
    let Event::Ready { name, ready } = event else { unreachable!() };
    assert_eq!((name.as_str(), ready.addresses["x"].port()), ("a", 7));
    client.ask(&script("b", "exit 3")).unwrap();
    let event = client.event(|event| matches!(event, Event::Ended { .. }));
    let Event::Ended { name, end } = event else { unreachable!() };
    assert_eq!((name.as_str(), end), ("b", End::Exited(3)));
    let tail = client.ask(&Request::Tail { name: "a".into(), lines: 5 }).unwrap();
    assert_eq!(tail, Reply::Lines(vec!["hello".into()]));
    let why = client.ask(&script("a", "true")).unwrap_err();
    assert!(why.contains("a already runs, as process"), "{why}");
    drop(client);

    let mut client = Client::new(folder.path());
    let status = client.status();
    let running: Vec<_> = status.programs.iter().map(|p| (p.name.as_str(), p.running.is_some())).collect();
    assert_eq!(running, [("a", true), ("b", false)]);
    let why = client.ask(&Request::Remove).unwrap_err();
    assert!(why.contains("these programs still run: a"), "{why}");
    client.stop(5000);
    assert!(client.status().programs.iter().all(|program| program.running.is_none()));
    assert_eq!(client.ask(&Request::Remove), Ok(Reply::Empty));
    assert!(!folder.path().exists());
}

#[test]
fn a_program_that_ignores_sigterm_is_killed_with_its_children() {
    let folder = folder();
    let mut client = Client::new(folder.path());
    client.ask(&script("deaf", "trap '' TERM; echo here; sleep 1000 & wait; sleep 1000")).unwrap();
    let tail = Request::Tail { name: "deaf".into(), lines: 1 };
    eventually("the trap", || (client.ask(&tail) == Ok(Reply::Lines(vec!["here".into()]))).then_some(()));
    let pid = client.status().programs[0].pid;
    client.stop(100);
    let end = client.status().programs[0].end.clone().unwrap();
    assert_eq!(end, End::Signaled(9));
    // The group has its leader's id.
    eventually("the whole group to be gone", || {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let group = format!(" {pid} ");
        let members = processes.filter(|process| {
            let stat = std::fs::read_to_string(process.path().join("stat")).unwrap_or_default();
            // State, parent and group follow the name, in parentheses.
            let fields: Vec<_> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
            fields.first() != Some(&"Z") && fields.get(2).is_some_and(|g| format!(" {g} ") == group)
        });
        (members.count() == 0).then_some(())
    });
}

#[test]
fn a_program_that_died_with_its_supervisor_is_noticed() {
    let folder = folder();
    let mut client = Client::new(folder.path());
    // exec leaves no child behind.
    client.ask(&script("a", "exec sleep 1000")).unwrap();
    let record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("run/a.pid")).unwrap()).unwrap();
    for process in ["supervisor", "process"] {
        let pid = record[process]["pid"].to_string();
        assert!(Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
    }
    let event = client.event(|event| matches!(event, Event::Ended { .. }));
    let Event::Ended { end, .. } = event else { unreachable!() };
    assert_eq!(end, End::Unknown("it and its supervisor were killed".into()));
}

#[test]
fn each_death_of_a_restarted_program_is_reported_once() {
    let folder = folder();
    let mut client = Client::new(folder.path());
    // Its first life ends with 75, the second is killed, and the third succeeds.
    let lives = "case $(ls run/life.* 2>/dev/null | wc -l) in \
        0) touch run/life.1; exit 75;; 1) touch run/life.2; kill -KILL $$;; *) exit 0;; esac";
    let Request::Start(program) = script("a", lives) else { unreachable!() };
    client.ask(&Request::Start(Program { restart: true, ..program })).unwrap();
    let event = client.event(|event| matches!(event, Event::Ended { .. }));
    assert_eq!(event, Event::Ended { name: "a".into(), end: End::Exited(0) });
    let died = |end, count| Event::Died { name: "a".into(), end, count };
    assert_eq!(client.events, [died(End::Exited(75), 1), died(End::Signaled(9), 2)]);
    assert!(End::Exited(75).is_temporary());
    assert_eq!(client.status().programs[0].deaths, [End::Exited(75), End::Signaled(9)]);
}

/// How often the threads of a process have waited (voluntary context switches).
fn waits(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let of_task = |task: std::fs::DirEntry| {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap();
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        count.trim().parse::<u64>().unwrap()
    };
    tasks.map(of_task).sum()
}

#[test]
fn an_idle_agent_sleeps_and_still_notices_a_ready_file() {
    let folder = folder();
    let mut client = Client::new(folder.path());
    // Each thread may wait once after the last request, and one thread wakes once a second.
    sleeps(&client, 6);
    let ready =
        r#"while [ ! -e go ]; do sleep 0.01; done; printf '{"addresses":{}}' > run/a.ready; sleep 1000"#;
    client.ask(&script("a", ready)).unwrap();
    sleeps(&client, 12);
    std::fs::write(folder.path().join("go"), "").unwrap();
    client.event(|event| matches!(event, Event::Ready { .. }));
    client.stop(1000);
}

/// Waits for three seconds in which the agent's threads wait at most this often. On a busy machine, they also wait for memory
/// that the system reads again.
fn sleeps(client: &Client, most: u64) {
    tests::eventually("an idle agent to sleep", || {
        let before = waits(client.child.id());
        // There is no event to wait for: the test is that nothing happens.
        std::thread::sleep(std::time::Duration::from_secs(3));
        (waits(client.child.id()) - before <= most).then_some(())
    });
}

#[test]
fn only_one_client_holds_the_lock() {
    let folder = folder();
    let mut first = Client::new(folder.path());
    let mut second = Client::new(folder.path());
    assert_eq!(first.ask(&holder("first")), Ok(Reply::Empty));
    let held = second.ask(&holder("second")).unwrap();
    assert_eq!(held, Reply::Held(Holder { who: "first".into(), since: "now".into() }));
    assert_eq!(second.status().holder.map(|holder| holder.who), Some("first".into()));
    drop(first);
    assert_eq!(second.ask(&holder("second")), Ok(Reply::Empty));
}

#[test]
fn paths_outside_the_folder_are_refused() {
    let folder = folder();
    let mut client = Client::new(folder.path());
    for path in ["../x", "/tmp/x", "run/../../x", ""] {
        let request = Request::WriteSecret { path: path.into(), text: "x".into() };
        let why = client.ask(&request).unwrap_err();
        assert!(why.contains("is not inside the host's folder"), "{why}");
    }
    let why = client.ask(&script("../x", "true")).unwrap_err();
    assert!(why.contains("is not a valid name for a program"), "{why}");
    let why = client
        .ask(&Request::Start(Program {
            name: "x".into(),
            path: "app/nothing".into(),
            args: Vec::new(),
            environment: BTreeMap::new(),
            ready_file: "run/x.ready".into(),
            restart: false,
        }))
        .unwrap_err();
    assert!(why.starts_with("starting x: ") && why.contains("app/nothing does not exist"), "{why}");
    client.ask(&Request::Clean).unwrap();
    let secret = Request::WriteSecret { path: "run/token".into(), text: "secret".into() };
    assert_eq!(client.ask(&secret), Ok(Reply::Empty));
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(folder.path().join("run/token")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
}
