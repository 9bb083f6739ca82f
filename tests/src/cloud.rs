//! A test cloud: moto with what it lacks, which `tests/python/cloud` adds, and `cargo xtask` in it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::lab::Lab;
use crate::program::Program;
use crate::{PATIENCE, eventually, python, root};

/// Whose calls the policy has to allow.
const PRODUCTS_KEY: &str = "test";
/// Whose calls need no policy.
const HANDS_KEY: &str = "byhand";

/// `cargo xtask`, with the program that has the AWS SDK.
fn xtask() -> Command {
    static BUILD: LazyLock<()> = LazyLock::new(|| {
        if std::env::var_os(crate::PROGRAMS).is_none() {
            crate::build("--package deploy-aws");
        }
    });
    LazyLock::force(&BUILD);
    crate::xtask()
}

/// Takes a stack down from any folder. The test cloud shows at once what is there, unless its settings say otherwise.
pub const DOWN: [&str; 5] = ["down", "--stack", "provisioned-classifier", "--settle", "0s"];

/// A cloud of its own for a test.
pub struct Cloud {
    process: Child,
    address: String,
    expects_problems: AtomicBool,
    expects_denials: AtomicBool,
    /// For what the test needs on disk.
    pub folder: TempDir,
}

/// A call that was made.
#[derive(Debug, Clone, Deserialize)]
pub struct Call {
    /// Its number, from 1.
    pub n: usize,
    /// When it came, in seconds since the cloud began.
    pub at: f64,
    /// Whose it is.
    pub service: String,
    /// What was called.
    pub operation: String,
    /// Whether it may change something.
    pub changes: bool,
    /// The error that it was answered with.
    pub error: Option<String>,
    /// Whether it lists things of EC2 without a limit for one answer.
    pub unpaged: bool,
}

/// Something that exists in the cloud.
#[derive(Debug, Clone, Deserialize)]
pub struct Resource {
    /// What it is.
    pub kind: String,
    /// Its id.
    pub id: String,
    /// The account that has it.
    pub account: String,
    /// How it is, if it can be in several ways.
    pub state: Option<String>,
}

impl Cloud {
    /// Starts it. With a lab, instances are its hosts.
    pub fn start(lab: Option<&Lab>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ready = folder.path().join("cloud.ready");
        let mut command = Command::new(python());
        command.arg(root().join("tests/python/cloud")).arg("--ready-file").arg(&ready);
        if let Some(lab) = lab {
            command.arg("--lab").arg(lab.folder()).arg("--lab-bridge").arg(lab.bridge());
        }
        let log = std::fs::File::create(folder.path().join("cloud.log")).unwrap();
        // It ends with its standard input.
        let process = command
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("the test cloud can be started");
        let mut cloud = Self {
            process,
            address: String::new(),
            expects_problems: AtomicBool::new(false),
            expects_denials: AtomicBool::new(false),
            folder,
        };
        let url = eventually("the test cloud to listen", || {
            let ended = cloud.process.try_wait().unwrap();
            assert!(ended.is_none(), "the test cloud ended: {}", cloud.log());
            let text = std::fs::read(&ready).ok()?;
            let ready: Value = serde_json::from_slice(&text).unwrap();
            Some(ready["url"].as_str().unwrap().to_owned())
        });
        cloud.address = url.strip_prefix("http://").unwrap().to_owned();
        cloud
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("cloud.log")).unwrap()
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
        self.point_to(&mut command, PRODUCTS_KEY);
        command
    }

    /// Does something to the stack by hand: what `tests/python/by_hand.py` does for a seed; gives what that was.
    pub fn by_hand(&self, seed: u32) -> String {
        let mut command = Command::new(python());
        command.arg(root().join("tests/python/by_hand.py")).arg(seed.to_string());
        self.point_to(&mut command, HANDS_KEY);
        Program::start_command("by_hand", self.folder.path(), command).success()
    }

    /// Does something in the cloud by hand: a Python program that uses boto3; gives what it prints.
    pub fn python(&self, code: &str) -> String {
        let mut command = Command::new(python());
        command.args(["-c", code]);
        self.point_to(&mut command, HANDS_KEY);
        Program::start_command("python", self.folder.path(), command).success()
    }

    /// Lets a command's AWS SDK, of whatever language, find this cloud and nothing else.
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

    /// Starts a command with these variables in its environment, too.
    pub fn begin_with(&self, folder: &str, args: &[&str], variables: &[(&str, &str)]) -> Program {
        let mut command = self.xtask(folder, args);
        command.envs(variables.iter().copied());
        Program::start_command(args[0], self.folder.path(), command)
    }

    /// Starts a command whose credentials are those of a profile in this AWS configuration.
    pub fn begin_with_profiles(&self, folder: &str, args: &[&str], config: &str) -> Program {
        let path = self.path("config");
        std::fs::write(&path, config).unwrap();
        let mut command = self.xtask(folder, args);
        command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
        command.env("AWS_CONFIG_FILE", path);
        Program::start_command(args[0], self.folder.path(), command)
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Runs a command that ends well; gives what it says.
    pub fn run(&self, folder: &str, args: &[&str]) -> String {
        self.begin(folder, args).success()
    }

    /// Runs a command that fails; gives what it says.
    pub fn fail(&self, folder: &str, args: &[&str]) -> String {
        self.begin(folder, args).failure()
    }

    /// Runs a command until its first call of an operation has taken effect, and kills it then.
    pub fn kill_at(&self, operation: &str, folder: &str, args: &[&str]) {
        self.hold_first(operation);
        let mut command = self.begin(folder, args);
        assert_eq!(self.held(&mut command).as_deref(), Some(operation), "{}", command.output());
        command.signal("KILL");
        command.wait();
        self.no_faults();
        self.let_go();
    }

    /// Takes the stack down from a folder that knows nothing of it.
    pub fn down(&self) -> String {
        self.run("empty", &DOWN)
    }

    /// Asks the test cloud itself for something.
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

    /// The calls since the n-th that may have changed something. One that is throttled has not, and is made again.
    pub fn changes_since(&self, n: usize) -> Vec<String> {
        let calls = self.calls().into_iter().skip(n);
        let changes = calls.filter(|call| call.changes && call.error.as_deref() != Some("Throttling"));
        changes.map(|call| call.operation).collect()
    }

    /// What AWS's models find wrong with the requests so far.
    pub fn problems(&self) -> Vec<Value> {
        self.ask("GET", "problems", &Value::Null).1["problems"].as_array().unwrap().clone()
    }

    /// What the policy has denied so far.
    pub fn denials(&self) -> Vec<Value> {
        self.ask("GET", "policy", &Value::Null).1["denied"].as_array().unwrap().clone()
    }

    /// Requests that no model of AWS's allows do not fail the test.
    pub fn expect_problems(&self) {
        self.expects_problems.store(true, Ordering::Relaxed);
    }

    /// Calls that the policy does not allow do not fail the test.
    pub fn expect_denials(&self) {
        self.expects_denials.store(true, Ordering::Relaxed);
    }

    /// All that exists.
    pub fn resources(&self) -> Vec<Resource> {
        serde_json::from_value(self.ask("GET", "resources", &Value::Null).1).unwrap()
    }

    /// The ids of what exists of a kind.
    pub fn ids(&self, kind: &str) -> Vec<String> {
        let resources = self.resources().into_iter().filter(|resource| resource.kind == kind);
        resources.map(|resource| resource.id).collect()
    }

    /// From now on, these faults strike.
    pub fn faults(&self, faults: &Value) {
        let (status, answer) = self.ask("POST", "faults", faults);
        assert!((200..300).contains(&status), "{answer}");
    }

    /// From now on, no fault strikes.
    pub fn no_faults(&self) {
        self.ask("DELETE", "faults", &Value::Null);
    }

    /// Changes how the cloud behaves.
    pub fn settings(&self, settings: &Value) {
        let (status, answer) = self.ask("POST", "settings", settings);
        assert!((200..300).contains(&status), "{answer}");
    }

    /// Drops instances that have ended from all answers, as EC2 does after an hour.
    pub fn forget(&self) {
        self.ask("POST", "forget", &json!({}));
    }

    /// From now on, the first call of an operation is held when it has taken effect, until it is let go.
    pub fn hold_first(&self, operation: &str) {
        self.faults(&json!([{"service": "*", "operation": operation, "kind": "hold", "when": "after"}]));
    }

    /// From now on, the `nth` call from now is held when it has taken effect, until it is let go.
    pub fn hold(&self, nth: usize) {
        self.faults(
            &json!([{"service": "*", "operation": "*", "kind": "hold", "when": "after", "skip": nth - 1}]),
        );
    }

    /// Waits until a call is held, or a program has ended; gives the operation.
    pub fn held(&self, program: &mut Program) -> Option<String> {
        eventually("a call to be held", || {
            let (status, held) = self.ask("GET", "held?timeout=0.05", &Value::Null);
            if status == 200 {
                return Some(Some(held["operation"].as_str().unwrap().to_owned()));
            }
            (!program.is_running()).then_some(None)
        })
    }

    /// Lets held calls go, without an answer.
    pub fn let_go(&self) {
        self.ask("POST", "release", &json!({"drop": true}));
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
        // It may have ended, which is what is wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
        assert!(found.is_empty(), "AWS would have refused: {found:#?}");
    }
}
