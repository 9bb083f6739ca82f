//! The server's faults do what they say.

use std::io::{Read, Write};
use std::net::TcpStream;

use tests::{PATIENCE, eventually};

use crate::client::{Client, refusal, refused, text};
use crate::server::{Effect, Fault, Point, Server};

/// Longer than what sockets and hyper hold.
const LONG: usize = 20 << 20;

/// Sends a request with the begin of a body of `length` bytes.
fn send(url: &str, method: &str, length: usize, body: &[u8]) -> TcpStream {
    let (host, target) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!("{method} /{target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    stream
}

/// What of the body has come when the connection ends.
fn body(mut stream: TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    answer.split_off(head)
}

#[test]
fn refusals_are_for_the_requests_that_were_asked_for() {
    let server = Server::start();
    let bucket = server.bucket("data");
    bucket.put("k", b"text");
    bucket.put("k2", b"text");
    let client = Client::new(&server, "data");
    let slow = server.on(Fault::new(Effect::SlowDown).method("GET").with("/data/k?").from(2).times(2));
    let expired = server.on(Fault::new(Effect::Expired).with("/data/k2?").with("X-Amz-Signature="));
    let get = |key: &str| client.agent.get(client.url(key)).call().unwrap();
    assert_eq!(text(get("k")), "text");
    assert_eq!(refusal(get("k")), refused(503, "SlowDown"));
    assert_eq!(refusal(get("k")), refused(503, "SlowDown"));
    assert_eq!(text(get("k")), "text");
    let answer = text(get("k2"));
    assert!(answer.contains("<Code>AccessDenied</Code><Message>Request has expired</Message>"), "{answer}");
    assert_eq!(
        refusal(client.agent.put(client.url("k2")).send("new").unwrap()),
        refused(403, "AccessDenied")
    );
    expired.end();
    assert_eq!(text(get("k2")), "text");
    assert_eq!((slow.count(), expired.count()), (2, 2));
    let statuses: Vec<_> = server.requests().iter().map(|request| request.status.unwrap()).collect();
    assert_eq!(statuses, [200, 503, 503, 200, 403, 403, 200]);
    assert_eq!(bucket.get("k2").unwrap(), b"text");
}

#[test]
fn a_cut_body_has_exactly_the_bytes_that_it_should() {
    let server = Server::start();
    let bucket = server.bucket("data");
    let long: Vec<u8> = (0..LONG).map(|place| (place / 1000) as u8).collect();
    bucket.put("k", &long);
    let client = Client::new(&server, "data");
    for bytes in [0, 1, 100_001, 15_000_001] {
        let cut = server.on(Fault::new(Effect::CutAfter(bytes as u64)).times(1));
        assert!(body(send(&client.url("k"), "GET", 0, b"")) == long[..bytes], "{bytes}");
        assert_eq!(cut.count(), 1);
    }
    server.on(Fault::new(Effect::CutAfter(LONG as u64)).times(1));
    let whole = client.agent.get(client.url("k")).call().unwrap();
    assert!(whole.into_body().into_with_config().limit(LONG as u64 + 1).read_to_vec().unwrap() == long);
}

#[test]
fn a_closed_connection_has_no_answer() {
    let server = Server::start();
    let bucket = server.bucket("data");
    bucket.put("k", b"text");
    let client = Client::new(&server, "data");
    let closed = server.on(Fault::new(Effect::Close).times(1));
    assert!(client.agent.get(client.url("k")).call().is_err());
    assert_eq!((closed.count(), server.requests()[0].status), (1, None));
    assert_eq!(text(client.agent.get(client.url("k")).call().unwrap()), "text");
}

#[test]
fn a_completion_whose_answer_is_lost_was_performed() {
    let server = Server::start();
    let bucket = server.bucket("data");
    let client = Client::new(&server, "data");
    let id = client.begin("k", "j");
    let part = client.part("k", &id, 1, b"text");
    let lost = server.on(Fault::new(Effect::LoseAnswer).method("POST").with("uploadId=").times(1));
    assert!(client.complete("k", &id, &[&part]).is_err());
    assert_eq!((lost.count(), server.open_uploads()), (1, 0));
    assert_eq!(bucket.get("k").unwrap(), b"text");
    let again = client.complete("k", &id, &[&part]).unwrap();
    assert_eq!(refusal(again), refused(404, "NoSuchUpload"));
}

#[test]
fn a_stalled_or_hanging_request_lasts_as_long_as_the_server() {
    let server = Server::start();
    let bucket = server.bucket("data");
    bucket.put("k", b"0123456789");
    let client = Client::new(&server, "data");
    let stalls = server.on(Fault::new(Effect::StallAfter(3)).method("GET"));
    let hangs = server.on(Fault::new(Effect::Hang).method("PUT"));
    let put = client.signer.put_object(Some(&client.credentials), "k");
    let put = rusty_s3::S3Action::sign(&put, crate::client::VALID);
    let (stalled, hanging) = (send(&client.url("k"), "GET", 0, b""), send(put.as_str(), "PUT", 3, b"new"));
    stalls.wait(1);
    hangs.wait(1);
    let statuses: Vec<_> = server.requests().iter().map(|request| request.status).collect();
    assert!(statuses.contains(&Some(200)) && statuses.contains(&None), "{statuses:?}");
    assert_eq!(bucket.get("k").unwrap(), b"0123456789");
    drop(server);
    assert_eq!(body(stalled), b"012");
    let mut answer = Vec::new();
    // The connection is reset, since the request's body was not read.
    assert!((&hanging).read_to_end(&mut answer).is_err() || answer.is_empty());
}

#[test]
fn a_paused_completion_is_performed_when_it_is_released_even_if_its_client_has_gone() {
    let server = Server::start();
    let bucket = server.bucket("data");
    let client = Client::new(&server, "data");
    let id = client.begin("k", "j");
    let part = client.part("k", &id, 1, b"text");
    let paused = server.on(Fault::new(Effect::Pause(Point::Arrived)).method("POST").with("uploadId="));
    let action =
        client.signer.complete_multipart_upload(Some(&client.credentials), "k", &id, [&*part].into_iter());
    let url = rusty_s3::S3Action::sign(&action, crate::client::VALID);
    let xml = action.body();
    let stream = send(url.as_str(), "POST", xml.len(), xml.as_bytes());
    paused.wait(1);
    assert_eq!((server.open_uploads(), bucket.head("k")), (1, None));
    drop(stream);
    paused.release();
    eventually("the completion", || (server.open_uploads() == 0).then_some(()));
    eventually("its answer", || (server.requests().last()?.status == Some(200)).then_some(()));
    assert_eq!(bucket.get("k").unwrap(), b"text");
}

#[test]
fn a_paused_answer_comes_when_it_is_released() {
    let server = Server::start();
    let bucket = server.bucket("data");
    let client = Client::new(&server, "data");
    let id = client.begin("k", "j");
    let part = client.part("k", &id, 1, b"text");
    let paused = server.on(Fault::new(Effect::Pause(Point::Performed)).method("POST").with("uploadId="));
    std::thread::scope(|scope| {
        let completing = scope.spawn(|| client.complete("k", &id, &[&part]).unwrap().status());
        paused.wait(1);
        assert_eq!((bucket.get("k").unwrap(), server.open_uploads()), (b"text".to_vec(), 0));
        assert_eq!(server.requests().last().unwrap().status, None);
        paused.release();
        assert_eq!(completing.join().unwrap(), 200);
    });
}

#[test]
fn a_part_whose_client_goes_in_its_middle_does_not_exist() {
    let server = Server::start();
    server.bucket("data");
    let client = Client::new(&server, "data");
    let id = client.begin("k", "j");
    let first = client.part("k", &id, 1, b"first");
    let paused = server.on(Fault::new(Effect::Pause(Point::Received(1000))).with("partNumber=1&"));
    let stream = send(&client.part_url("k", &id, 1), "PUT", 2000, &[b'2'; 1500]);
    paused.wait(1);
    drop(stream);
    paused.release();
    eventually("the end of the request", || server.requests().last()?.status.filter(|&status| status >= 400));
    assert_eq!(client.complete("k", &id, &[&first]).unwrap().status(), 200);
    // With its whole body, a paused part is stored.
    let id = client.begin("k", "j");
    let part = client.part("k", &id, 1, &[b'3'; 2000]);
    assert_eq!(paused.count(), 2);
    assert_eq!(client.complete("k", &id, &[&part]).unwrap().status(), 200);
}
