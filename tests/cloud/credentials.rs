//! Sources of credentials, and proxies.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tests::cloud::Cloud;

const PLAN: [&str; 4] = ["plan", "CLUSTER_SIZE=1", "--ssh-from", "203.0.113.7"];
/// Longer than the SDK's own time limit for credentials.
const SLOW_SECONDS: u32 = 7;

#[test]
fn a_slow_program_for_credentials_runs_once_for_a_command() {
    let cloud = Cloud::start(None);
    let runs = cloud.path("runs");
    let program = cloud.path("credentials.sh");
    let answer = r#"{"Version": 1, "AccessKeyId": "test", "SecretAccessKey": "test"}"#;
    let script =
        format!("#!/bin/sh\necho run >> {}\nsleep {SLOW_SECONDS}\necho '{answer}'\n", runs.display());
    std::fs::write(&program, script).unwrap();
    let config = format!("[default]\ncredential_process = sh {}\nregion = eu-central-1\n", program.display());
    let count = || std::fs::read_to_string(&runs).unwrap().lines().count();
    let said = cloud.begin_with_profiles("up", &PLAN, &config).failure();
    // The profile's region is used as well.
    assert!(said.contains("provisioned-classifier in eu-central-1, account 123456789012"), "{said}");
    assert_eq!(count(), 1);
    let down = ["down", "--stack", "x", "--region", "us-west-2,eu-west-1", "--settle", "0s"];
    let said = cloud.begin_with_profiles("empty", &down, &config).success();
    assert!(said.contains("nothing is left of x in eu-west-1, account 123456789012"), "{said}");
    assert_eq!(count(), 2);
}

#[test]
fn a_profile_that_cannot_give_credentials_says_why() {
    let cloud = Cloud::start(None);
    let keys = "aws_access_key_id = test\naws_secret_access_key = test\n";
    let role = "role_arn = arn:aws:iam::123456789012:role/r\nsource_profile = base\n";
    for (config, why) in [
        (
            format!("[default]\n{role}mfa_serial = arn:aws:iam::123456789012:mfa/u\n[profile base]\n{keys}"),
            "the profile default needs a code of an MFA device (mfa_serial)",
        ),
        (
            "[default]\nsso_session = s\nsso_account_id = 123456789012\nsso_role_name = r\n[sso-session s]\nsso_region = \
             us-west-2\nsso_start_url = https://example.awsapps.com/start\n"
                .to_owned(),
            "aws sso login",
        ),
        (
            "[default]\nlogin_session = arn:aws:sts::123456789012:assumed-role/r/s\nregion = us-west-2\n".to_owned(),
            "aws login",
        ),
        ("[default]\n".to_owned(), "there are no credentials for AWS; set AWS_ACCESS_KEY_ID"),
        ("[default]\ncredential_process = sh -c 'echo not today >&2; exit 1'\n".to_owned(), "not today"),
    ] {
        let said = cloud.begin_with_profiles("up", &PLAN, &config).failure();
        assert!(said.contains(why), "{config}: {said}");
    }
    assert!(cloud.calls().is_empty(), "{:?}", cloud.calls());
    // Without a role, no AWS tool asks for an MFA code.
    let config = format!("[default]\n{keys}mfa_serial = arn:aws:iam::123456789012:mfa/u\n");
    let said = cloud.begin_with_profiles("up", &PLAN, &config).failure();
    assert!(said.contains("provisioned-classifier in us-west-2, account 123456789012"), "{said}");
}

/// Starts a proxy that passes all requests to the test cloud and counts them.
fn proxy(cloud: &Cloud) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (count, cloud) = (Arc::<AtomicUsize>::default(), cloud.address().to_owned());
    let counted = count.clone();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (client, cloud, counted) = (client.unwrap(), cloud.clone(), counted.clone());
            std::thread::spawn(move || pass_on(client, &cloud, &counted));
        }
    });
    (address, count)
}

/// Forwards requests one after the other. Their first line has a whole URL; the cloud gets its path.
fn pass_on(client: TcpStream, cloud: &str, counted: &AtomicUsize) {
    let mut there = TcpStream::connect(cloud).unwrap();
    let mut answers = (there.try_clone().unwrap(), client.try_clone().unwrap());
    std::thread::spawn(move || std::io::copy(&mut answers.0, &mut answers.1));
    let mut client = BufReader::new(client);
    loop {
        let (mut line, mut length) = (String::new(), 0);
        // A client without more requests closes or resets the connection.
        if !client.read_line(&mut line).is_ok_and(|read| read > 0) {
            return;
        }
        let words: Vec<_> = line.split(' ').collect();
        let path = words[1].strip_prefix("http://aws.invalid").expect("a whole URL");
        let path = if path.is_empty() { "/" } else { path };
        counted.fetch_add(1, Ordering::Relaxed);
        let mut head = format!("{} {path} {}", words[0], words[2]);
        while !head.ends_with("\r\n\r\n") {
            let mut header = String::new();
            client.read_line(&mut header).unwrap();
            if let Some(value) = header.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            head.push_str(&header);
        }
        let mut body = vec![0; length];
        client.read_exact(&mut body).unwrap();
        there.write_all(&[head.as_bytes(), &body].concat()).unwrap();
    }
}

#[test]
fn a_proxy_in_the_environment_is_used() {
    let cloud = Cloud::start(None);
    let (address, count) = proxy(&cloud);
    let proxy = format!("http://{address}");
    let variables =
        [("AWS_ENDPOINT_URL", "http://aws.invalid"), ("HTTP_PROXY", &proxy), ("http_proxy", &proxy)];
    let said = cloud.begin_with("up", &PLAN, &variables).failure();
    assert!(said.contains("provisioned-classifier in us-west-2, account 123456789012"), "{said}");
    assert_eq!(count.load(Ordering::Relaxed), cloud.calls().len());
    // With NO_PROXY, the request goes to that address, where nothing answers.
    let variables = [&variables[..], &[("NO_PROXY", "aws.invalid"), ("no_proxy", "aws.invalid")]].concat();
    let said = cloud.begin_with("up", &PLAN, &variables).failure();
    assert!(said.contains("AWS cannot be reached"), "{said}");
    assert_eq!(count.load(Ordering::Relaxed), cloud.calls().len());
}
