//! Signed URLs work as in S3, and only for what they were signed for.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use rusty_s3::{Credentials, S3Action, UrlStyle};
use ureq::SendBody;

use crate::client::{Client, JOB, VALID, header, refusal, refused, text};
use crate::server::{Server, agent};

#[test]
fn a_signed_get_reads_an_object_and_a_range_of_it() {
    let server = Server::start();
    let bucket = server.bucket("data");
    let etag = bucket.put("a folder/ä+b.csv", b"0123456789");
    let client = Client::new(&server, "data");
    let url = client.url("a folder/ä+b.csv");
    let answer = client.agent.get(&url).header("if-match", &etag).call().unwrap();
    assert_eq!((answer.status().as_u16(), header(&answer, "etag")), (200, etag.as_str()));
    assert_eq!(header(&answer, "content-length"), "10");
    assert_eq!(text(answer), "0123456789");
    for (range, content, there) in [
        ("bytes=2-4", "bytes 2-4/10", "234"),
        ("bytes=8-", "bytes 8-9/10", "89"),
        ("bytes=7-99", "bytes 7-9/10", "789"),
        ("bytes=-2", "bytes 8-9/10", "89"),
    ] {
        let request = client.agent.get(&url).header("range", range).header("if-match", &etag);
        let answer = request.call().unwrap();
        assert_eq!((answer.status().as_u16(), header(&answer, "etag")), (206, etag.as_str()));
        assert_eq!(header(&answer, "content-range"), content);
        assert_eq!(text(answer), there);
    }
    let beyond = client.agent.get(&url).header("range", "bytes=10-").call().unwrap();
    assert_eq!(refusal(beyond), refused(416, "InvalidRange"));
    let other = client.agent.get(client.url("other")).call().unwrap();
    assert_eq!(refusal(other), refused(404, "NoSuchKey"));
    let elsewhere = client.agent.get(Client::new(&server, "other").url("k")).call().unwrap();
    assert_eq!(refusal(elsewhere), refused(404, "NoSuchBucket"));
}

#[test]
fn an_overwritten_object_no_longer_matches_its_etag() {
    let server = Server::start();
    let bucket = server.bucket("data");
    let before = bucket.put("k", b"before");
    let client = Client::new(&server, "data");
    let url = client.url("k");
    assert_eq!(bucket.put("k", b"before"), before);
    let after = bucket.put("k", b"new");
    assert_ne!(after, before);
    // This range was there before.
    for range in ["bytes=0-1", "bytes=4-5"] {
        let answer = client.agent.get(&url).header("range", range).header("if-match", &before).call();
        assert_eq!(refusal(answer.unwrap()), refused(412, "PreconditionFailed"));
    }
    let head = client.signer.head_object(Some(&client.credentials), "k").sign(VALID);
    let status = |etag: &str| {
        client.agent.head(head.as_str()).header("if-match", etag).call().unwrap().status().as_u16()
    };
    assert_eq!((status(&before), status(&after)), (412, 200));
    assert_eq!(bucket.get("k").unwrap(), b"new");
    assert_eq!((bucket.get("other"), bucket.head("other")), (None, None));
}

#[test]
fn a_signature_is_for_its_request_only() {
    let server = Server::start();
    let bucket = server.bucket("data");
    bucket.put("k", b"secret");
    bucket.put("k2", b"secret");
    let client = Client::new(&server, "data");
    let url = client.url("k");
    let get = |url: &str| refusal(client.agent.get(url).call().unwrap());
    let wrong = refused(403, "SignatureDoesNotMatch");
    assert_eq!(get(&url.replace("/data/k?", "/data/k2?")), wrong);
    assert_eq!(get(&url.replace("X-Amz-Expires=3600", "X-Amz-Expires=3601")), wrong);
    assert_eq!(get(&format!("{url}&response-content-type=a")), wrong);
    assert_eq!(get(&url.replace("127.0.0.1", "localhost")), wrong);
    assert_eq!(refusal(client.agent.put(&url).send("new").unwrap()), wrong);
    assert_eq!(refusal(client.agent.delete(&url).call().unwrap()), wrong);
    assert_eq!(client.agent.head(&url).call().unwrap().status(), 403);
    let (unsigned, _) = url.split_once('?').unwrap();
    assert_eq!(get(unsigned), refused(403, "AccessDenied"));
    let guessed = Credentials::new(client.credentials.key(), "guessed");
    assert_eq!(get(client.signer.get_object(Some(&guessed), "k").sign(VALID).as_str()), wrong);
    let unknown = Credentials::new("unknown", "guessed");
    let url = client.signer.get_object(Some(&unknown), "k").sign(VALID);
    assert_eq!(get(url.as_str()), refused(403, "InvalidAccessKeyId"));
    assert_eq!(bucket.get("k").unwrap(), b"secret");
}

#[test]
fn a_signature_ends_and_may_not_be_valid_for_longer_than_a_week() {
    let server = Server::start();
    server.bucket("data").put("k", b"secret");
    let client = Client::new(&server, "data");
    let action = client.signer.get_object(Some(&client.credentials), "k");
    let get = |url: &str| client.agent.get(url).call().unwrap();
    let before = Timestamp::now() - VALID - Duration::from_secs(2);
    let expired = text(get(action.sign_with_time(VALID, &before).as_str()));
    assert!(expired.contains("<Code>AccessDenied</Code><Message>Request has expired</Message>"), "{expired}");
    let week = Duration::from_secs(7 * 24 * 3600);
    assert_eq!(get(action.sign(week).as_str()).status(), 200);
    let longer = get(action.sign(week + Duration::from_secs(1)).as_str());
    assert_eq!(refusal(longer), refused(400, "AuthorizationQueryParametersError"));
}

#[test]
fn unsigned_headers_and_bodies_of_unknown_length_are_refused() {
    let server = Server::start();
    let bucket = server.bucket("data");
    let client = Client::new(&server, "data");
    let url = client.signer.put_object(Some(&client.credentials), "k").sign(VALID);
    let put = || client.agent.put(url.as_str());
    let unsigned = put().header(JOB, "j").send("text").unwrap();
    assert_eq!(refusal(unsigned), refused(403, "AccessDenied"));
    let chunked = put().send(SendBody::from_owned_reader(&b"text"[..])).unwrap();
    assert_eq!(refusal(chunked), refused(411, "MissingContentLength"));
    assert_eq!(bucket.keys(""), [""; 0]);
    assert_eq!(put().send("text").unwrap().status(), 200);
    let mut action = client.signer.put_object(Some(&client.credentials), "k");
    action.headers_mut().insert(JOB, "j");
    let answer = client.agent.put(action.sign(VALID).as_str()).header(JOB, "other").send("text").unwrap();
    assert_eq!(refusal(answer), refused(403, "SignatureDoesNotMatch"));
    assert_eq!(bucket.head("k").unwrap().metadata, [].into());
}

#[test]
fn a_program_finds_the_server_with_its_environment() {
    let server = Server::start();
    let bucket = server.bucket("data");
    bucket.put("in/a b.csv", b"text");
    bucket.put("in/c.csv", b"text");
    assert_eq!(bucket.keys("in/"), ["in/a b.csv", "in/c.csv"]);
    let environment = BTreeMap::from(server.environment());
    let value = |name| environment[name].clone();
    let endpoint = value("AWS_ENDPOINT_URL_S3").parse().unwrap();
    let signer = rusty_s3::Bucket::new(endpoint, UrlStyle::Path, "data", value("AWS_REGION")).unwrap();
    let credentials = Credentials::new(value("AWS_ACCESS_KEY_ID"), value("AWS_SECRET_ACCESS_KEY"));
    let url = signer.get_object(Some(&credentials), "in/a b.csv").sign(VALID);
    assert_eq!(text(agent().get(url.as_str()).call().unwrap()), "text");
    // Only this one was not of the test itself.
    let [request] = server.requests().try_into().unwrap();
    assert_eq!((request.method.as_str(), request.path.as_str()), ("GET", "/data/in/a%20b.csv"));
    assert_eq!((request.status, request.query["X-Amz-Expires"].as_str()), (Some(200), "3600"));
}
