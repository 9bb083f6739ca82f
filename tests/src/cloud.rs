//! A test cloud (moto with the additions of `tests/python/cloud`), and `cargo xtask` in it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::lab::Lab;
use crate::program::Program;
use crate::{PATIENCE, eventually, python, root};

/// Access key of the product: the policy must allow its calls.
const PRODUCT_KEY: &str = "test";
/// Access key for changes by hand: its calls need no policy.
const BY_HAND_KEY: &str = "byhand";

/// `cargo xtask`, with `deploy-aws` built.
fn xtask() -> Command {
    static BUILD: LazyLock<()> = LazyLock::new(|| {
        if std::env::var_os(crate::PROGRAMS).is_none() {
            crate::build("--package deploy-aws");
        }
    });
    LazyLock::force(&BUILD);
    crate::xtask()
}

/// Takes a stack down from any folder. The default settings of the test cloud list new resources at once, so it need not
/// settle.
pub const DOWN: [&str; 5] = ["down", "--stack", "provisioned-classifier", "--settle", "0s"];

/// The process that forks the clouds of this test program. It ends when this program does, since its standard input is closed then.
struct ForkServer {
    _process: Child,
    _stdin: ChildStdin,
    port: u16,
}

impl ForkServer {
    fn start() -> Self {
        let mut command = Command::new(python());
        command.arg(root().join("tests/python/cloud")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("the test cloud can be started");
        let mut port = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut port).unwrap();
        let port = port.trim().parse().expect("the test cloud ended; its reason is above");
        Self { _stdin: process.stdin.take().unwrap(), _process: process, port }
    }
}

static FORK_SERVER: LazyLock<ForkServer> = LazyLock::new(ForkServer::start);

/// A test cloud for a single test.
pub struct Cloud {
    /// The cloud ends when this is closed.
    _connection: TcpStream,
    address: String,
    expects_problems: AtomicBool,
    expects_denials: AtomicBool,
    /// The test's folder.
    pub folder: TempDir,
}

/// A call that the cloud has received.
#[derive(Debug, Clone, Deserialize)]
pub struct Call {
    /// Its number, from 1.
    pub n: usize,
    /// When it arrived, in seconds since the cloud's start.
    pub at: f64,
    pub service: String,
    pub operation: String,
    /// Whether it may change something.
    pub changes: bool,
    /// The error code of the answer.
    pub error: Option<String>,
    /// Whether it lists EC2 resources without a page size.
    pub unpaged: bool,
}

/// A resource in the cloud.
#[derive(Debug, Clone, Deserialize)]
pub struct Resource {
    pub kind: String,
    pub id: String,
    /// The account that owns it.
    pub account: String,
    /// Its state, if its kind has states.
    pub state: Option<String>,
}

impl Cloud {
    /// Starts the cloud. With a lab, instances are its hosts.
    pub fn start(lab: Option<&Lab>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let connection = TcpStream::connect((Ipv4Addr::LOCALHOST, FORK_SERVER.port)).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        let lab = lab.map(|lab| json!({"folder": lab.folder(), "bridge": lab.bridge()}));
        let log = folder.path().join("cloud.log");
        writeln!(&connection, "{}", json!({"log": log, "lab": lab})).unwrap();
        let mut address = String::new();
        BufReader::new(&connection).read_line(&mut address).expect("the test cloud answers");
        let log = || std::fs::read_to_string(&log).unwrap_or_default();
        assert!(!address.is_empty(), "the test cloud ended: {}", log());
        Self {
            _connection: connection,
            address: address.trim().to_owned(),
            expects_problems: AtomicBool::new(false),
            expects_denials: AtomicBool::new(false),
            folder,
        }
    }

    /// A path in the test's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `cargo xtask` in this cloud, in a folder of its own below the test's.
    pub fn xtask(&self, folder: &str, args: &[&str]) -> Command {
        let here = self.path(folder);
        std::fs::create_dir_all(&here).unwrap();
        let mut command = xtask();
        command.args(args).arg("--inventory").arg(here.join("inventory.toml")).current_dir(&here);
        self.point_to(&mut command, PRODUCT_KEY);
        command
    }

    /// Changes the stack by hand: runs `tests/python/by_hand.py` with a seed, and returns its description of the change.
    pub fn by_hand(&self, seed: u32) -> String {
        let mut command = Command::new(python());
        command.arg(root().join("tests/python/by_hand.py")).arg(seed.to_string());
        self.point_to(&mut command, BY_HAND_KEY);
        Program::start_command("by_hand", self.folder.path(), command).success()
    }

    /// Runs a Python program that uses boto3 to change the cloud by hand; returns its output.
    pub fn python(&self, code: &str) -> String {
        let mut command = Command::new(python());
        command.args(["-c", code]);
        self.point_to(&mut command, BY_HAND_KEY);
        Program::start_command("python", self.folder.path(), command).success()
    }

    /// Points a command's AWS SDK, in any language, to this cloud and nothing else.
    fn point_to(&self, command: &mut Command, access_key: &str) {
        command
            .env("AWS_ENDPOINT_URL", format!("http://{}", self.address))
            .env("AWS_ACCESS_KEY_ID", access_key)
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_CONFIG_FILE", self.path("no-config"))
            .env("AWS_SHARED_CREDENTIALS_FILE", self.path("no-credentials"))
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env_remove("AWS_REGION")
            .env_remove("AWS_PROFILE");
    }

    /// Starts `cargo xtask` in this cloud.
    pub fn begin(&self, folder: &str, args: &[&str]) -> Program {
        Program::start_command(args[0], self.folder.path(), self.xtask(folder, args))
    }

    /// Starts `cargo xtask` in this cloud, with more environment variables.
    pub fn begin_with(&self, folder: &str, args: &[&str], variables: &[(&str, &str)]) -> Program {
        let mut command = self.xtask(folder, args);
        command.envs(variables.iter().copied());
        Program::start_command(args[0], self.folder.path(), command)
    }

    /// Starts `cargo xtask` in this cloud, with the credentials of a profile in this AWS configuration.
    pub fn begin_with_profiles(&self, folder: &str, args: &[&str], config: &str) -> Program {
        let path = self.path("config");
        std::fs::write(&path, config).unwrap();
        let mut command = self.xtask(folder, args);
        command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
        command.env("AWS_CONFIG_FILE", path);
        Program::start_command(args[0], self.folder.path(), command)
    }

    /// The address at which the cloud listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Runs a command that must succeed; returns its output.
    pub fn run(&self, folder: &str, args: &[&str]) -> String {
        self.begin(folder, args).success()
    }

    /// Runs a command that must fail; returns its output.
    pub fn fail(&self, folder: &str, args: &[&str]) -> String {
        self.begin(folder, args).failure()
    }

    /// Kills a command as soon as its first call of `operation` has taken effect.
    pub fn kill_at(&self, operation: &str, folder: &str, args: &[&str]) {
        self.hold_first(operation);
        let mut command = self.begin(folder, args);
        assert_eq!(self.held(&mut command).as_deref(), Some(operation), "{}", command.output());
        command.signal("KILL");
        command.wait();
        self.no_faults();
        self.release();
    }

    /// Takes the stack down from an empty folder.
    pub fn down(&self) -> String {
        self.run("empty", &DOWN)
    }

    /// Sends a request to the test cloud's own interface; returns status and body.
    pub fn ask(&self, method: &str, path: &str, body: &Value) -> (u32, Value) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (host, body) = (&self.address, body.to_string());
        let length = body.len();
        let head =
            format!("{method} /_test/{path} HTTP/1.0\r\nHost: {host}\r\nContent-Type: application/json\r\n");
        write!(stream, "{head}Content-Length: {length}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        (status, serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned())))
    }

    /// All calls so far.
    pub fn calls(&self) -> Vec<Call> {
        serde_json::from_value(self.ask("GET", "calls", &Value::Null).1).unwrap()
    }

    /// The operations of calls after the `n`th that may have changed something. A throttled call has not, and is repeated.
    pub fn changes_since(&self, n: usize) -> Vec<String> {
        let calls = self.calls().into_iter().skip(n);
        let changes = calls.filter(|call| call.changes && call.error.as_deref() != Some("Throttling"));
        changes.map(|call| call.operation).collect()
    }

    /// Requests so far that do not conform to AWS's service models.
    pub fn problems(&self) -> Vec<Value> {
        self.ask("GET", "problems", &Value::Null).1["problems"].as_array().unwrap().clone()
    }

    /// Calls so far that the policy denied.
    pub fn denials(&self) -> Vec<Value> {
        self.ask("GET", "policy", &Value::Null).1["denied"].as_array().unwrap().clone()
    }

    /// Lets the test pass despite requests that do not conform to AWS's models.
    pub fn expect_problems(&self) {
        self.expects_problems.store(true, Ordering::Relaxed);
    }

    /// Lets the test pass despite calls that the policy denies.
    pub fn expect_denials(&self) {
        self.expects_denials.store(true, Ordering::Relaxed);
    }

    /// All existing resources.
    pub fn resources(&self) -> Vec<Resource> {
        serde_json::from_value(self.ask("GET", "resources", &Value::Null).1).unwrap()
    }

    /// The ids of all existing resources of a kind.
    pub fn ids(&self, kind: &str) -> Vec<String> {
        let resources = self.resources().into_iter().filter(|resource| resource.kind == kind);
        resources.map(|resource| resource.id).collect()
    }

    /// Injects these faults from now on.
    pub fn faults(&self, faults: &Value) {
        let (status, answer) = self.ask("POST", "faults", faults);
        assert!((200..300).contains(&status), "{answer}");
    }

    /// Injects no more faults.
    pub fn no_faults(&self) {
        self.ask("DELETE", "faults", &Value::Null);
    }

    /// Changes settings of the cloud.
    pub fn settings(&self, settings: &Value) {
        let (status, answer) = self.ask("POST", "settings", settings);
        assert!((200..300).contains(&status), "{answer}");
    }

    /// Removes terminated instances from all answers, as EC2 does after an hour.
    pub fn forget(&self) {
        self.ask("POST", "forget", &json!({}));
    }

    /// Holds the next call of an operation after it has taken effect, until [`release`](Self::release).
    pub fn hold_first(&self, operation: &str) {
        self.faults(&json!([{"service": "*", "operation": operation, "kind": "hold", "when": "after"}]));
    }

    /// Holds the `nth` call from now after it has taken effect, until [`release`](Self::release).
    pub fn hold(&self, nth: usize) {
        self.faults(
            &json!([{"service": "*", "operation": "*", "kind": "hold", "when": "after", "skip": nth - 1}]),
        );
    }

    /// Waits until a call is held, and returns its operation; `None` if `program` ends before.
    pub fn held(&self, program: &mut Program) -> Option<String> {
        eventually("a call to be held", || {
            let (status, held) = self.ask("GET", "held?timeout=0.05", &Value::Null);
            if status == 200 {
                return Some(Some(held["operation"].as_str().unwrap().to_owned()));
            }
            (!program.is_running()).then_some(None)
        })
    }

    /// Releases held calls without an answer. Returns when the cloud has performed all calls of programs that have ended.
    pub fn release(&self) {
        self.ask("POST", "release", &json!({"drop": true}));
        let port = self.address.rsplit(':').next().unwrap().parse().unwrap();
        eventually("the calls of killed programs to end", || {
            (crate::left_connections(port) == 0).then_some(())
        });
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        let mut found = Vec::new();
        if !std::thread::panicking() {
            if !self.expects_problems.load(Ordering::Relaxed) {
                found.extend(self.problems());
            }
            if !self.expects_denials.load(Ordering::Relaxed) {
                found.extend(self.denials());
            }
        }
        assert!(found.is_empty(), "AWS would have refused: {found:#?}");
    }
}
