//! Inputs at HTTP addresses give the results of the files there, and what goes wrong on the way is an error that says so.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tests::program::Program;

/// Makes a certificate for 127.0.0.1, which is its own authority.
const CERTIFICATE: &str = "
import datetime, ipaddress
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
key = ec.generate_private_key(ec.SECP256R1())
name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, 'test')])
now = datetime.datetime.now(datetime.timezone.utc)
day = datetime.timedelta(days=1)
made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
made = made.serial_number(1).not_valid_before(now - day).not_valid_after(now + day)
made = made.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address('127.0.0.1'))]), False)
made = made.sign(key, hashes.SHA256())
open('certificate.pem', 'wb').write(made.public_bytes(serialization.Encoding.PEM))
form = serialization.PrivateFormat.PKCS8
open('key.pem', 'wb').write(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
";

/// A server that ends when this is dropped.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(folder: &Path, certificate: &[&str]) -> Self {
        let mut command = Command::new(tests::python());
        command.arg(tests::root().join("tests/python/ranges.py")).arg(folder).args(certificate);
        command.current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut port = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
        Self { child, port: port.trim().parse().unwrap() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn job(folder: &Path, inputs: &[&str], options: &[&str]) -> Program {
    let mut command = tests::xtask();
    command.args(["run-locally", "--no-hub", "--output", "out", "--log", "log", "--input"]).args(inputs);
    command.args(options).arg("--python").arg(tests::python()).current_dir(folder);
    command.env("SSL_CERT_FILE", folder.join("certificate.pem"));
    Program::start_command("xtask", folder, command)
}

fn made() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let rows: String = (0..50_000).map(|row| format!("{row},{}.5,text {row}\n", row % 7)).collect();
    std::fs::write(path("in.csv"), format!("id,x,text\n{rows}")).unwrap();
    let make = "
import gzip, pandas, zstandard
text = open('in.csv', 'rb').read()
open('in.csv.gz', 'wb').write(gzip.compress(text))
open('in.csv.zst', 'wb').write(zstandard.compress(text))
pandas.read_csv('in.csv').to_parquet('in.parquet', index=False)
open('empty.csv', 'w').write('')
";
    let script = format!("{make}{CERTIFICATE}");
    let made = Command::new(tests::python()).args(["-c", &script]).current_dir(folder.path()).status();
    assert!(made.unwrap().success());
    std::fs::create_dir(path("model")).unwrap();
    std::fs::write(path("model/model.py"), "def f(df):\n    return df['x'] * df['id']\n").unwrap();
    folder
}

const TYPED: [&str; 4] = ["--model", "model/model.py:f", "--chunk-size", "1000"];

#[test]
fn files_at_addresses_give_the_results_of_the_files() {
    let folder = made();
    let server = Server::start(folder.path(), &[]);
    let at = |path: &str| format!("http://127.0.0.1:{}/{path}", server.port);
    let read = || std::fs::read_to_string(folder.path().join("out/results.csv")).unwrap();
    job(folder.path(), &["in.csv"], &TYPED).success();
    let expected = read();
    for path in [
        "fine/in.csv?key=secret",
        "flaky/in.csv",
        "whole/in.csv",
        "flaky/in.csv.gz",
        "fine/in.csv.zst",
        "flaky/in.parquet",
    ] {
        let said = job(folder.path(), &[&at(path)], &TYPED).success();
        assert!(said.contains("rows out   50,000") && !said.contains("secret"), "{path}: {said}");
        assert!(read() == expected, "{path}");
        assert!(job(folder.path(), &[&at(path)], &TYPED).success().contains("already done: "), "{path}");
    }
    // Several, some of them here.
    let said = job(folder.path(), &[&at("fine/in.csv"), "in.csv.gz"], &TYPED).success();
    assert!(
        said.contains("rows from 2 files, http://127.0.0.1") && said.contains("rows out   100,000"),
        "{said}"
    );
    let secured = Server::start(folder.path(), &["certificate.pem", "key.pem"]);
    let address = format!("https://127.0.0.1:{}/fine/in.csv", secured.port);
    job(folder.path(), &[&address], &TYPED).success();
    assert!(read() == expected);
}

#[test]
fn what_a_server_does_wrong_is_said() {
    let folder = made();
    let server = Server::start(folder.path(), &[]);
    let at = |path: &str| format!("http://127.0.0.1:{}/{path}", server.port);
    let native = ["--model", "native"];
    let refused = |path: &str| job(folder.path(), &[&at(path)], &native).exit(3);
    let said = refused("expired/in.csv?X-Amz-Signature=secret");
    let reason = "/expired/in.csv: the server answers 403 Forbidden: Request has expired";
    assert!(said.contains(reason) && !said.contains("secret"), "{said}");
    assert!(refused("fine/other.csv").contains("/fine/other.csv: the server answers 404 Not Found"));
    assert!(refused("fine/empty.csv").contains("/fine/empty.csv is empty"));
    let said = job(folder.path(), &[&at("changes/in.csv")], &native).failure();
    assert!(said.contains("/changes/in.csv: it has changed while it was read"), "{said}");
    let said = job(folder.path(), &[&at("ends/in.csv")], &native).exit(1);
    assert!(said.contains("/ends/in.csv: tried 7 times: after 5"), "{said}");
    // A certificate of an unknown authority.
    let secured = Server::start(folder.path(), &["certificate.pem", "key.pem"]);
    std::fs::write(folder.path().join("certificate.pem"), "").unwrap();
    let address = format!("https://127.0.0.1:{}/fine/in.csv", secured.port);
    let said = job(folder.path(), &[&address], &native).exit(3);
    assert!(said.contains("/fine/in.csv: ") && said.contains("certificate"), "{said}");
}
